"""Compiles an experiment's step for a TPU slice on a host without one, and says what a chip would hold and do.

  pip install -e ".[tpu]"
  python -m launch.compile EXPERIMENT --config=configs/NAME.py --topology=v5p:4x4x4 [--task=NAME] [--batch=N]

A JSON line for each task, of its gradients, also added to the file `--out`. Memory of a chip in GiB: `arguments`
(parameters and the batch), `temporary` (with the gradients), `waiting` (optimizer state), and `total` of `hbm`; or what
it lacks. Operations (`program_flops`, over all chips) and their `ratio` to three times the model's forward ones. `traffic`: how
many collectives of a kind, and the bytes they bring to a chip; `moved`: bytes through its main memory. `seconds` that
each would take alone at the chip's peaks; a step takes at least the longest.
"""

import json
import math
import os
import pathlib
import time
from typing import Any

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

import dataclasses

import jax
from absl import flags
from jax.experimental import topologies

from embed.data.tasks import Task, batch_structs
from embed.distributed.mesh import make_mesh
from embed.losses.loss import Params
from embed.training import loop
from embed.training.config_check import ConfigError
from embed.training.flops import CHIPS, model_flops, program_flops
from embed.training.main import define_config, load_experiment, start
from embed.training.start import state_structs
from embed.training.step import make_step
from launch.hlo import moved, overflow, traffic

GIB = 2**30
TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "a TPU slice as libtpu names it: v5e:4x4, v5p:4x4x4, v6e:16x16")
TASK = flags.DEFINE_multi_string("task", [], "tasks to compile; all of the experiment's if none is given")
BATCH = flags.DEFINE_integer("batch", 0, "pairs of a batch instead of the tasks' own", lower_bound=0)
OUT = flags.DEFINE_string("out", "", "a file to which the lines are added")
CONFIG = define_config("configs/v5e_16.py")


def compiled(f: Any, *args: Any) -> dict[str, Any]:
    """Memory of a chip in GiB, bytes it moves and receives and seconds to compile of a jitted function; or what
    overflowed."""
    start = time.perf_counter()
    try:
        program = f.lower(*args).compile()
    except jax.errors.JaxRuntimeError as error:
        needs, has = overflow(error)
        return {"fits": False, "total": needs, "hbm": has}
    memory, text = program.memory_analysis(), program.as_text()
    return {
        "arguments": memory.argument_size_in_bytes / GIB,
        "temporary": (memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes) / GIB,
        "traffic": traffic(text),
        "moved": moved(text),
        "compile_s": round(time.perf_counter() - start),
    }


def gradients(run: loop.Run, task: Task) -> tuple[Any, tuple]:
    """The jitted gradients of one task's batch, and what they are computed of, as ShapeDtypeStructs."""
    step = make_step(run.loss, run.optimizer, run.trainable)
    key = jax.eval_shape(lambda: jax.random.key(run.seed))

    def differentiate(params: Params, pairs: Any, key: jax.Array) -> Any:
        return step.differentiate(params, pairs, task.candidates, key)

    return jax.jit(differentiate), (state_structs(run)[1].params, batch_structs(task, run.encoder.arch.media), key)


def counted(run: loop.Run, task: Task) -> dict[str, float]:
    """Operations of one task's gradients over all chips, without compiling, and their ratio to the model's."""
    f, (params, pairs, key) = gradients(run, task)
    taken = program_flops(f, params, pairs, key)
    return {"flops": taken, "ratio": taken / model_flops(run.encoder, params, pairs)}


def plan(experiment: str, config: Any, batch: int = 0) -> loop.Run:
    """What an experiment says, with batches of `batch` pairs where that is not 0."""
    run = load_experiment(experiment).plan(config)
    return dataclasses.replace(run, tasks=[dataclasses.replace(t, batch=batch or t.batch) for t in run.tasks])


def waiting(state: loop.TrainState) -> float:
    """GiB of a chip that the optimizer's state takes while gradients are computed."""
    leaves = jax.tree.leaves(state.optimizer)
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves) / GIB


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise ConfigError("name one experiment: python -m launch.compile EXPERIMENT --config=... --topology=...")
    config = CONFIG.value
    run = plan(argv[1], config, BATCH.value)
    unknown = set(TASK.value) - {task.name for task in run.tasks}
    if unknown:
        raise ConfigError(f"{argv[1]} has no task {', '.join(unknown)}; it has {', '.join(t.name for t in run.tasks)}")
    devices = topologies.get_topology_desc(TOPOLOGY.value, platform="tpu").devices
    chip = CHIPS[devices[0].device_kind]
    with jax.set_mesh(make_mesh(config.mesh, devices)):
        _, state = state_structs(run)
        for task in run.tasks:
            if TASK.value and task.name not in TASK.value:
                continue
            about = {"experiment": argv[1], "model": config.model, "topology": TOPOLOGY.value}
            about |= {"mesh": list(config.mesh), "task": task.name, "batch": task.batch}
            f, args = gradients(run, task)
            line = about | {"microbatch": config.microbatch} | compiled(f, *args) | counted(run, task)
            seconds = {"compute": line["flops"] / len(devices) / chip.flops}
            if "temporary" in line:
                line |= {"waiting": waiting(state), "hbm": chip.memory / GIB}
                line["total"] = line["arguments"] + line["temporary"] + line["waiting"]
                line["fits"] = line["total"] <= line["hbm"]
                received = sum(size for _, size in line["traffic"].values())
                seconds |= {"memory": line["moved"] / chip.bandwidth, "wire": received / chip.wire}
            text = json.dumps(_rounded(line | {"seconds": seconds}))
            print(text, flush=True)
            if OUT.value:
                with pathlib.Path(OUT.value).open("a") as file:
                    file.write(text + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    start(main)
