"""Memory of a step as the batch grows and the microbatch stays: what the compiler allocates, and the process's peak.

  python -m benchmarks.batch_memory [--batches 1024 8192 65536] [--tokens 32] [--microbatch 32768]

Runs the step of experiments/scale.py on random text, with the tiny model on this host's CPU, in one process per batch
size. On a CPU, the host's memory holds what a chip's would. `batch MiB` is the size of the batch's own arrays.
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


def measure(batch: int, tokens: int, microbatch: int) -> str:
    """Take the step; return a row of the table."""
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
    batch_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(pairs))
    temporary = compiled.memory_analysis().temp_size_in_bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"| {batch:,} | {batch_bytes / MIB:,.0f} | {temporary / MIB:,.0f} | {peak / MIB:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [1 << 10, 1 << 13, 1 << 16]
    parser.add_argument("--batches", type=int, nargs="+", default=sizes, help="pairs per batch (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens per text (default: %(default)s)")
    parser.add_argument(
        "--microbatch", type=int, default=1 << 15, help="tokens encoded at a time (default: %(default)s)"
    )
    args = parser.parse_args()
    if len(args.batches) == 1:
        print(measure(args.batches[0], args.tokens, args.microbatch))
        return
    print("| pairs | batch MiB | temporary MiB | peak MiB of the process |\n|---|---|---|---|", flush=True)
    flags = [f"--tokens={args.tokens}", f"--microbatch={args.microbatch}"]
    for batch in args.batches:
        subprocess.run([sys.executable, "-m", "benchmarks.batch_memory", f"--batches={batch}", *flags], check=True)


if __name__ == "__main__":
    main()
