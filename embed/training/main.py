"""Every experiment's main: from a plan and the command line to a trained run."""

import dataclasses
import importlib
import inspect
import os
import pathlib
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
from ml_collections import ConfigDict

from embed.distributed import storage
from embed.distributed.mesh import make_mesh
from embed.distributed.preemption import RESTART_STATUS, Restart
from embed.training import loop, prepare
from embed.training.command_line import define_config, define_flags, run_with_flags
from embed.training.config_check import ConfigError
from embed.training.program import plan_file, program_source
from embed.training.run import Run
from embed.training.startup import check_folders, set_up_jax, set_up_logging
from embed.training.step import TrainState

DEFAULT_CONFIG = "configs/cpu.py"
PACKAGES = ("experiments", "experiments.ablations")


def run(plan: Callable[[ConfigDict], Run]) -> None:
    """Train what `plan(config)` returns; the main of every experiment.

    `--config=configs/NAME.py` picks the config, `--config.field=value` changes a field, `--help` lists them. Joins the
    pod, sets the mesh, prepares corpora and tokenizer (or takes a published model's tokenizer), and trains, continuing
    from the run's last checkpoint.
    """
    run_script(lambda config: train(load_run(plan, config), config))


def train(run: Run, config: ConfigDict) -> TrainState:
    """Prepare what `run` needs and train it. Raises as `loop.fit` does. Needs a mesh (`jax.set_mesh`)."""
    preprocessor = prepare.preprocessor_for(run, config)
    return loop.fit(run, preprocessor, prepare.open_sources(run.tasks, run.data))


def load_run(plan: Callable[[ConfigDict], Run], config: ConfigDict) -> Run:
    """Return `plan(config)` with its folder, workdir/NAME, and its metadata; NAME is the stem of the plan's file.

    The metadata holds the name, the config, and the program: of this file and of the experiments it derives from, so
    that a run never continues under a changed parent.
    """
    name = plan_file(plan).stem
    metadata = {"experiment": name, "program": program_source(plan), "config": config.to_dict()}
    return dataclasses.replace(plan(config), folder=storage.path(config.workdir) / name, metadata=metadata)


def load_experiment(name: str) -> ModuleType:
    """Import experiments/NAME.py or experiments/ablations/NAME.py.

    Raises ConfigError, naming the choices, where there is none with a `plan`.
    """
    choices = list_experiments()
    if name not in choices:
        raise ConfigError(f"{name!r} is not an experiment with a plan; choices: {', '.join(choices)}")
    return importlib.import_module(choices[name])


def list_experiments() -> dict[str, str]:
    """Return the experiments that have a `plan`, parents before their forks: name -> dotted name of the module."""
    modules = {}
    for package in PACKAGES:
        for folder in importlib.import_module(package).__path__:
            for file in pathlib.Path(folder).glob("[!_]*.py"):
                if re.search(r"^def plan\(", file.read_text(encoding="utf-8"), re.MULTILINE):
                    modules[file.stem] = f"{package}.{file.stem}"
    return dict(sorted(modules.items(), key=lambda item: item[0].split("__")))


def run_script(main: Callable[..., Any], **comments: str) -> None:
    """Call `main(config, ...)` on the config's mesh; the main of scripts that are no single experiment.

    Every further argument of `main` is a string flag `--NAME=...`, explained by `comments[NAME]`; its default is the
    argument's. Exits with status 2 and one line after a user's error, and with RESTART_STATUS where the same command
    continues the run.
    """
    config_flag = define_config(DEFAULT_CONFIG)
    defaults = {name: inspect.signature(main).parameters[name].default for name in comments}
    holders = define_flags(defaults, comments)

    def begin(arguments: list[str]) -> None:
        if len(arguments) > 1:
            raise ConfigError(f"unexpected argument {arguments[1]!r}; settings are given as --config.name=value")
        config = config_flag.value
        set_up_logging()
        set_up_jax(config.workdir)
        check_folders(config)
        try:
            mesh = make_mesh(config.mesh)
        except ValueError as error:
            raise ConfigError(f"--config.mesh={config.mesh}: {error}") from error
        with jax.set_mesh(mesh):
            try:
                main(config, **{name: holder.value for name, holder in holders.items()})
            except Exception:
                check_folders(config)  # if a bucket is unreachable, that is the cause, whatever a library reports
                raise

    try:
        run_with_flags(begin)
    except storage.Unreachable as error:
        print(f"error: {error}; the same command continues from the last checkpoint", file=sys.stderr, flush=True)
        # sys.exit would wait a quarter of an hour for the threads that still try to write.
        os._exit(RESTART_STATUS)
    except Restart as error:
        print(f"{error}; the same command continues from there", file=sys.stderr, flush=True)
        sys.exit(RESTART_STATUS)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command continues from the last checkpoint")
