"""Compiles the real step of an experiment for a TPU topology, on a host without one, and says what it takes there.

  pip install -e ".[tpu]"
  python -m launch.compile EXPERIMENT --config=configs/NAME.py --topology=v5p:4x4x4 [--task=NAME] [--out=TABLE.jsonl]

A line for each task, of its gradients (the optimizer's program is not compiled): memory of a chip in GiB, operations
against those of the model alone, bytes between chips by kind, and the seconds that the operations and those bytes take
at the chip's peaks, each alone. What does not fit says by how much.
"""

import json
import os
import pathlib
import time
from typing import Any

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

import importlib

import jax
from absl import app, flags
from jax.experimental import topologies
from ml_collections import config_flags

from embed import train
from embed.data.tasks import Task, shapes
from embed.flops import flops
from embed.mesh import make_mesh
from embed.model.encoder import encode_pairs
from launch.hlo import overflow, traffic

GIB = 2**30
# bfloat16 TFLOP/s, and GB/s to the other chips, of one chip (Google Cloud's pages on each).
PEAKS = {"TPU v5 lite": (197, 200), "TPU v5": (459, 600), "TPU v6 lite": (918, 448)}

TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "a TPU slice as libtpu names it: v5e:4x4, v5p:4x4x4, v6e:16x16")
TASK = flags.DEFINE_multi_string("task", [], "tasks to compile; all of the experiment's if none is given")
OUT = flags.DEFINE_string("out", "", "a file to which the lines are added, as JSON")
CONFIG = config_flags.DEFINE_config_file("config", "configs/v5e_16.py")


def compiled(f: Any, *args: Any) -> dict[str, Any]:
    """Memory of a chip in GiB, bytes between chips and seconds to compile of a jitted function; or what overflowed."""
    start = time.perf_counter()
    try:
        program = f.lower(*args).compile()
    except jax.errors.JaxRuntimeError as error:
        needs, has = overflow(error)
        return {"fits": False, "needs": needs, "has": has}
    memory = program.memory_analysis()
    return {
        "fits": True,
        "arguments": memory.argument_size_in_bytes / GIB,
        "temporary": memory.temp_size_in_bytes / GIB,
        "traffic": traffic(program.as_text()),
        "compile_s": time.perf_counter() - start,
    }


def of_task(run: train.Run, step: train.Step, task: Task, state: train.TrainState) -> dict[str, Any]:
    """The gradients of one task's batch."""
    pairs = shapes(task, run.encoder.arch.media)
    key = jax.eval_shape(lambda: jax.random.key(run.seed))
    line = compiled(step.differentiate, state.params, pairs, task.candidates, key)

    def forward(params: dict, pairs: Any) -> Any:
        return encode_pairs(lambda rows: run.encoder.apply({"params": params}, rows)[:, 0], pairs)

    # The backward pass takes two products for each of the forward one's.
    model = 3 * flops(forward, state.params, pairs)
    taken = flops(
        lambda params, pairs, key: step.differentiate(params, pairs, task.candidates, key), state.params, pairs, key
    )
    return line | {"flops": taken, "ratio": taken / model}


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("name one experiment: python -m launch.compile EXPERIMENT --config=... --topology=...")
    config = CONFIG.value
    run = importlib.import_module(f"experiments.{argv[1]}").plan(config)
    unknown = set(TASK.value) - {task.name for task in run.tasks}
    if unknown:
        raise app.UsageError(
            f"{argv[1]} has no task {', '.join(unknown)}; it has {', '.join(t.name for t in run.tasks)}"
        )
    devices = topologies.get_topology_desc(TOPOLOGY.value, platform="tpu").devices
    peak, wire = PEAKS[devices[0].device_kind]
    with jax.set_mesh(make_mesh(config.mesh, devices)):
        _, state = train.shapes(run)
        step = train.make_step(run.loss, run.optimizer, run.trains)
        for task in run.tasks:
            if TASK.value and task.name not in TASK.value:
                continue
            line = of_task(run, step, task, state)
            about = {"model": config.model, "topology": TOPOLOGY.value, "mesh": list(config.mesh)}
            line = about | {"task": task.name, "batch": task.batch, "microbatch": config.microbatch} | line
            line["compute_s"] = line["flops"] / len(devices) / (peak * 1e12)
            if line["fits"]:
                line["wire_s"] = sum(size for _, size in line["traffic"].values()) / (wire * 1e9)
            print(json.dumps(line), flush=True)
            if OUT.value:
                with pathlib.Path(OUT.value).open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    app.run(main)
