"""Compile an experiment's step for a TPU slice, on a host without one, and print what a chip would hold and do.

  pip install -e ".[tpu]"
  python -m launch.compile EXPERIMENT --config=configs/tpu_v5e_16.py --topology=v5e:4x4 [--task=NAME] [--batch=N]

Prints one JSON line per task, for the gradients of its batch.
  total_gib         memory of a chip, the sum of the next three; or what would be needed, where it does not fit
  arguments_gib     parameters and the batch
  temporary_gib     activations and gradients
  optimizer_gib     optimizer state, which waits while gradients are computed
  hbm_gib, fits     the memory that a chip has, and whether the total fits into it
  flops             of matrix products, over all chips, recomputation included
  flops_ratio       these FLOPs over three times those of the model's forward pass
  collectives       per kind, how many a chip starts, and the bytes that it receives
  hbm_bytes         bytes that a chip reads from and writes to its main memory
  seconds           that compute, hbm (memory traffic) and ici (collectives) would take alone at the chip's peaks; a
                    step takes at least the longest
  compile_s         seconds that compiling took
"""

import dataclasses
import json
import math
import pathlib
import time
from typing import Any

import jax
from absl import flags

from embed.data.tasks import Task, batch_structs
from embed.distributed.mesh import make_mesh
from embed.losses.loss import Params
from embed.training import loop
from embed.training.command_line import define_config, run_with_flags
from embed.training.config_check import ConfigError
from embed.training.flops import CHIPS, model_flops, program_flops
from embed.training.main import list_experiments, load_experiment
from embed.training.start import state_structs
from embed.training.step import make_step
from launch.hlo import collectives, hbm_bytes, parse_overflow
from launch.tpu_slice import CHOICES, slice_devices

GIB = 2**30
TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", f"TPU slice: {CHOICES}")
TASK = flags.DEFINE_multi_string("task", [], "task to compile; default: all tasks of the experiment")
BATCH = flags.DEFINE_integer("batch", 0, "pairs per batch; default: the task's own", lower_bound=0)
OUT = flags.DEFINE_string("out", "", "file that the lines are also appended to")
CONFIG = define_config("configs/tpu_v5e_16.py")


def load_plan(experiment: str, config: Any, batch: int = 0) -> loop.Run:
    """Return an experiment's plan, with batches of `batch` pairs unless that is 0."""
    run = load_experiment(experiment).plan(config)
    tasks = tuple(dataclasses.replace(task, batch=batch or task.batch) for task in run.tasks)
    return dataclasses.replace(run, tasks=tasks)


def make_gradients(run: loop.Run, task: Task) -> tuple[Any, tuple]:
    """Return the jitted gradients of one task's batch, and their arguments as ShapeDtypeStructs."""
    step = make_step(run.loss, run.optimizer, run.trainable)
    key = jax.eval_shape(lambda: jax.random.key(run.seed))

    def differentiate(params: Params, pairs: Any, key: jax.Array) -> Any:
        return step.differentiate(params, pairs, task.candidates, key)

    return jax.jit(differentiate), (state_structs(run)[1].params, batch_structs(task, run.encoder.arch.media), key)


def compile_function(f: Any, *args: Any) -> dict[str, Any]:
    """Compile a jitted function; return its memory and traffic per chip, or by how much it does not fit."""
    start_time = time.perf_counter()
    try:
        program = f.lower(*args).compile()
    except jax.errors.JaxRuntimeError as error:
        needed, available = parse_overflow(error)
        return {"fits": False, "total_gib": needed, "hbm_gib": available}
    memory = program.memory_analysis()
    text = program.as_text()
    temporary = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "arguments_gib": memory.argument_size_in_bytes / GIB,
        "temporary_gib": temporary / GIB,
        "collectives": collectives(text),
        "hbm_bytes": hbm_bytes(text),
        "compile_s": round(time.perf_counter() - start_time),
    }


def count_flops(run: loop.Run, task: Task) -> dict[str, float]:
    """Return the FLOPs of one task's gradients over all chips, without compiling, and their ratio to the model's."""
    f, (params, pairs, key) = make_gradients(run, task)
    flops = program_flops(f, params, pairs, key)
    return {"flops": flops, "flops_ratio": flops / model_flops(run.encoder, params.encoder, pairs)}


def optimizer_gib(state: loop.TrainState) -> float:
    """Return the GiB of a chip that the optimizer's state takes while gradients are computed."""
    leaves = jax.tree.leaves(state.optimizer)
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves) / GIB


def compile_task(run: loop.Run, task: Task, state: loop.TrainState, devices: list[Any]) -> dict[str, Any]:
    """Return the measures of one task's gradients on a slice; its mesh is the current one."""
    chip = CHIPS[devices[0].device_kind]
    f, args = make_gradients(run, task)
    measures = compile_function(f, *args) | count_flops(run, task)
    seconds = {"compute": measures["flops"] / len(devices) / chip.flops}
    if "temporary_gib" in measures:
        measures |= {"optimizer_gib": optimizer_gib(state), "hbm_gib": chip.memory / GIB}
        parts = ("arguments_gib", "temporary_gib", "optimizer_gib")
        measures["total_gib"] = sum(measures[name] for name in parts)
        measures["fits"] = measures["total_gib"] <= measures["hbm_gib"]
        received = sum(size for _, size in measures["collectives"].values())
        seconds |= {"hbm": measures["hbm_bytes"] / chip.bandwidth, "ici": received / chip.interconnect}
    return measures | {"seconds": seconds}


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        usage = "python -m launch.compile EXPERIMENT --config=... --topology=..."
        raise ConfigError(f"usage: {usage}; experiments: {', '.join(list_experiments())}")
    experiment = argv[1]
    devices = slice_devices(TOPOLOGY.value)
    config = CONFIG.value
    run = load_plan(experiment, config, BATCH.value)
    names = [task.name for task in run.tasks]
    unknown = sorted(set(TASK.value) - set(names))
    if unknown:
        raise ConfigError(f"--task: {experiment} has no task {', '.join(unknown)}; choices: {', '.join(names)}")
    with jax.set_mesh(make_mesh(config.mesh, devices)):
        _, state = state_structs(run)
        for task in run.tasks:
            if TASK.value and task.name not in TASK.value:
                continue
            line = {
                "experiment": experiment,
                "model": config.model,
                "topology": TOPOLOGY.value,
                "mesh": list(config.mesh),
                "task": task.name,
                "batch": task.batch,
                "microbatch": config.microbatch,
            }
            text = json.dumps(_round_floats(line | compile_task(run, task, state, devices)))
            print(text, flush=True)
            if OUT.value:
                with pathlib.Path(OUT.value).open("a") as file:
                    file.write(text + "\n")


def _round_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _round_floats(item) for name, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    run_with_flags(main)
