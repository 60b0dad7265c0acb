"""Memory of a step as the batch grows and the microbatch stays: what the compiler sets aside, and the process's peak.

  python -m benchmarks.batch_memory [--batches 1024 8192 65536] [--tokens 32] [--microbatch 32768]

The step of `experiments/scale.py` on random text, with the tiny model on this host's CPU, one in a process of its own
for every batch. `batch` is the batch's own arrays. On a CPU the host holds what a chip would.
"""

import argparse
import dataclasses
import resource
import subprocess
import sys

import jax
import numpy as np

from configs import cpu
from embed.data.budget import Budget
from embed.data.tasks import batch_structs
from embed.distributed import mesh
from embed.training.start import initial_state, state_structs
from embed.training.step import make_step
from experiments import scale

MIB = 2**20


def line(batch: int, tokens: int, microbatch: int) -> str:
    """A row of the table; takes the step."""
    config = cpu.get_config()
    config.microbatch, config.remat = microbatch, True
    run = scale.plan(config)
    task = dataclasses.replace(scale.TASKS[0], batch=batch, query=Budget(tokens), target=Budget(tokens))
    rng = np.random.default_rng(0)

    def content(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return rng.integers(0, 2, leaf.shape).astype(leaf.dtype)

    with jax.set_mesh(mesh.make_mesh((1, 1, 1))):
        pairs = jax.tree.map(content, batch_structs(task, run.encoder.arch.media))
        for side in (pairs.query, pairs.target):
            side.tokens[:], side.segments[:], side.soft_token_index[:] = rng.integers(5, 1000, side.tokens.shape), 1, -1
            side.positions[:] = np.arange(tokens)
        pairs.query_hash[:], pairs.target_hash[:] = rng.integers(0, 2**32, (2, batch, 2))
        pairs.valid[:] = True
        placed = mesh.to_global(pairs)
        step = make_step(run.loss, run.optimizer, run.trainable)
        state = initial_state(run, state_structs(run)[0], None)
        key = jax.random.key(0)
        compiled = step.differentiate.lower(state.params, placed, task.candidates, key).compile()
        grads, metrics = compiled(state.params, placed, key)
        state, _ = step.update(state, grads, metrics["pairs"])
        assert np.isfinite(metrics["loss"])
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(pairs))
    temporary = compiled.memory_analysis().temp_size_in_bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"| {batch:,} | {own / MIB:,.0f} | {temporary / MIB:,.0f} | {peak / MIB:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1 << 10, 1 << 13, 1 << 16])
    for name, value in (("tokens", 32), ("microbatch", 1 << 15)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    if len(given.batches) == 1:
        print(line(given.batches[0], given.tokens, given.microbatch))
        return
    print("| pairs | batch MiB | temporary MiB | peak MiB of the process |\n|---|---|---|---|", flush=True)
    same = [f"--tokens={given.tokens}", f"--microbatch={given.microbatch}"]
    for batch in given.batches:
        subprocess.run([sys.executable, "-m", "benchmarks.batch_memory", f"--batches={batch}", *same], check=True)


if __name__ == "__main__":
    main()
