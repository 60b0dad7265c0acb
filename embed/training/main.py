"""What every experiment does before its first line: read the config flag, name the log, join the pod, set the mesh."""

import ast
import contextlib
import importlib
import logging
import os
import pathlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from embed.data.discover import DatasetError
from embed.data.media.decode import MediaError
from embed.data.pieces import LimitError
from embed.data.records import RecordError
from embed.distributed import storage
from embed.distributed.devices import skip_absent_tpu
from embed.distributed.mesh import make_mesh
from embed.distributed.preemption import RESTART_STATUS, Restart
from embed.hf import HubError
from embed.synthesis.llm import LLMError
from embed.training.checkpoint import CheckpointError
from embed.training.config_check import FIELDS, ConfigError, check_config
from embed.training.metrics import Diverged
from embed.training.quarantine import DataError
from embed.training.soup import SoupError

# Errors whose message tells the user what to mend. Every other one is a defect, and keeps its traceback.
USER_ERRORS = (
    ConfigError,
    CheckpointError,
    DataError,
    DatasetError,
    RecordError,
    MediaError,
    LimitError,
    HubError,
    SoupError,
    Diverged,
    LLMError,
    storage.StorageError,
    FileNotFoundError,
    NotADirectoryError,
    PermissionError,
)


def run(main: Callable[[ConfigDict], None]) -> None:
    """Runs `main(config)`; `--config=configs/NAME.py` picks the config, `--config.field=value` changes a field of it.

    An unknown, ill-typed or impossible field stops the program with its name and the choices.
    """
    holder = define_config("configs/cpu.py")

    def begin(argv: list[str]) -> None:
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; settings are given as --config.name=value")
        absl_logging.use_absl_handler()
        absl_logging.set_verbosity(absl_logging.INFO)
        absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        for noisy in ("orbax", "absl", "fsspec", "jax._src.xla_bridge"):  # the last tries every kind of device
            logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # orbax's reads: what failed is raised as well
        config = holder.value
        prepare(config)
        try:
            mesh = make_mesh(config.mesh)
        except ValueError as error:
            raise ConfigError(f"--config.mesh={config.mesh}: {error}") from error
        with jax.set_mesh(mesh):
            try:
                main(config)
            except Exception:
                check_folders(config)  # where a bucket was lost that is the reason, whatever the libraries say
                raise

    try:
        start(begin)
    except storage.Unreachable as error:
        print(f"error: {error}; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
        # sys.exit would wait for the threads that still try to write, for a quarter of an hour.
        os._exit(RESTART_STATUS)
    except Restart as error:
        print(f"{error}; the same command goes on from there", file=sys.stderr, flush=True)
        sys.exit(RESTART_STATUS)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on from the last checkpoint")


def start(main: Callable[[list[str]], None]) -> None:
    """Reads the flags, `--config` among them, and runs `main(arguments)`, for a program that has defined them."""
    with user_errors():
        app.run(main, flags_parser=parse_flags)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with one line for an error that its user can mend."""
    try:
        yield
    except storage.Unreachable:
        raise
    except USER_ERRORS as error:
        sys.exit(f"error: {error}")


def define_config(default: str) -> flags.FlagHolder:
    """The flag `--config`, a file whose fields are flags too, which are looked for in the command line at once."""
    with user_errors(), config_errors():
        return config_flags.DEFINE_config_file("config", default)


def parse_flags(argv: list[str]) -> list[str]:
    """The arguments that are no flags. Raises ConfigError for a flag or a config that cannot be used."""
    with config_errors():
        arguments = flags.FLAGS(argv)
        check_config(flags.FLAGS["config"].value)
    return arguments


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Raises ConfigError for what absl and ml_collections say of a command line."""
    try:
        yield
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    except AttributeError as error:
        if not isinstance(error.args[0], KeyError):  # ml_collections raises this one where a config lacks a field
            raise
        reason = " ".join(error.args[0].args[0].split())
        raise ConfigError(f"--config has no field {reason}; there are: {', '.join(FIELDS)}") from error
    except OSError as error:
        reason = str(error).splitlines()[-1].strip()
        there = ", ".join(sorted(map(str, pathlib.Path("configs").glob("[!_]*.py")))) or "none in configs/ here"
        raise ConfigError(f"--config: {reason}; there are: {there}") from error


def load_experiment(name: str) -> ModuleType:
    """Imports experiments/NAME.py, one with tasks of its own. Raises ConfigError, naming those, where it is none."""
    package = importlib.import_module("experiments")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    if name in names and hasattr(module := importlib.import_module(f"experiments.{name}"), "TASKS"):
        return module
    choices = [each for each in names if hasattr(importlib.import_module(f"experiments.{each}"), "TASKS")]
    raise ConfigError(f"{name!r} is no experiment with tasks of its own; there are: {', '.join(choices)}")


def experiment_metadata(file: str, config: ConfigDict) -> dict[str, Any]:
    """What the checkpoints of an experiment say of it: its name, its program, and the config."""
    return {
        "experiment": pathlib.Path(file).stem,
        "code_of_experiment": program_source(file),
        "config": config.to_dict(),
    }


def program_source(file: str) -> str:
    """A program without its comments, docstrings and layout: what two versions must share to be the same experiment."""
    return strip_prose(pathlib.Path(file).read_text(encoding="utf-8"))


def strip_prose(source: str) -> str:
    """`program_source` of a program's text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def prepare(config: ConfigDict) -> None:
    """Joins the other hosts of a pod, and keeps compiled programs so that stages and restarts do not compile twice."""
    join_pod()
    check_folders(config)
    jax.config.update("jax_compilation_cache_dir", storage.absolute(storage.path(config.workdir) / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def check_folders(config: ConfigDict) -> None:
    """Raises StorageError where one of a config's folders is in a bucket that cannot be used."""
    for name in (config.workdir, config.data, config.pairs):
        storage.check_access(storage.path(name))


def join_pod() -> None:
    """Joins the other hosts of a pod; alone there is nothing to join."""
    skip_absent_tpu()
    if "JAX_COORDINATOR_ADDRESS" in os.environ:  # launch/simulate.sh, or a cluster that JAX does not know
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            int(os.environ["JAX_NUM_PROCESSES"]),
            int(os.environ["JAX_PROCESS_ID"]),
        )
    elif "EMBED_POD" in os.environ or os.environ.get("TPU_WORKER_HOSTNAMES", "").count(","):
        # launch/worker.sh says so, or GKE does; the others are in the environment there, in the metadata of a TPU VM
        jax.distributed.initialize()
