"""Memory of a chip that a step's gradients take, as the batch grows and the microbatch stays.

  pip install -e ".[tpu]"; python -m benchmarks.microbatch_memory [BATCH ...]

The text task of experiments/scale.py in configs/v5e_16.py, compiled for v5e:4x4 on a host without one. Arguments are
the parameters and the batch.
"""

import dataclasses
import os
import sys

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

import jax
from jax.experimental import topologies

from configs import v5e_16
from embed import mesh, train
from embed.data.tasks import shapes
from experiments import scale

BATCHES = (1024, 8192, 65536)


def line(batch: int) -> str:
    """A row of the table, on the mesh of the moment."""
    config = v5e_16.get_config()
    run = scale.plan(config)
    task = dataclasses.replace(next(task for task in run.tasks if task.name == "text"), batch=batch)
    _, state = train.shapes(run)
    pairs = shapes(task, run.encoder.arch.media)
    step = train.make_step(run.loss, run.optimizer, run.trains)
    key = jax.eval_shape(lambda: jax.random.key(run.seed))
    memory = step.differentiate.lower(state.params, pairs, task.candidates, key).compile().memory_analysis()
    gib = [size / 2**30 for size in (memory.temp_size_in_bytes, memory.argument_size_in_bytes)]
    return f"| {batch:,} | {config.microbatch} | {gib[0]:.3f} | {gib[1]:.3f} |"


def main(batches: list[int]) -> None:
    print("| pairs | microbatch | temporary GiB a chip | arguments GiB a chip |\n|---|---|---|---|")
    devices = topologies.get_topology_desc("v5e:4x4", platform="tpu").devices
    with jax.set_mesh(mesh.make_mesh(v5e_16.get_config().mesh, devices)):
        for batch in batches:
            print(line(batch), flush=True)


if __name__ == "__main__":
    main([int(batch) for batch in sys.argv[1:]] or list(BATCHES))
