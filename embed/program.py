"""What every experiment does before its first line: read the config flag, name the log, join the pod, set the mesh."""

import ast
import logging
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import app
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from embed import storage
from embed.checkpoint import CheckpointError
from embed.journal import Diverged
from embed.mesh import make_mesh
from embed.quarantine import DataError

RESTART = os.EX_TEMPFAIL  # 75, the exit status that says: start the same command again


class Restart(Exception):
    """A run that ended early, in a state that the same command goes on from."""


def run(main: Callable[[ConfigDict], None]) -> None:
    """Runs `main(config)`; `--config=configs/NAME.py` picks the config, `--config.field=value` changes a field of it.

    An unknown or ill-typed field stops the program with its name and a suggestion.
    """
    holder = config_flags.DEFINE_config_file("config", "configs/cpu.py")

    def start(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}; settings are given as --config.name=value")
        absl_logging.use_absl_handler()
        absl_logging.set_verbosity(absl_logging.INFO)
        absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        for noisy in ("orbax", "absl", "fsspec"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # orbax's reads: what failed is raised as well
        prepare(holder.value)
        with jax.set_mesh(make_mesh(holder.value.mesh)):
            try:
                main(holder.value)
            except Exception:
                reach(holder.value)  # where a bucket was lost that is the reason, whatever the libraries say
                raise

    try:
        app.run(start)
    except storage.Unreachable as error:
        print(f"error: {error}; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
        # sys.exit would wait for the threads that still try to write, for a quarter of an hour.
        os._exit(RESTART)
    except Restart as error:
        print(f"{error}; the same command goes on from there", file=sys.stderr, flush=True)
        sys.exit(RESTART)
    except (storage.StorageError, CheckpointError, DataError, Diverged) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on from the last checkpoint")


def about(file: str, config: ConfigDict) -> dict[str, Any]:
    """What the checkpoints of an experiment say of it: its name, its program, and the config."""
    return {"experiment": pathlib.Path(file).stem, "code_of_experiment": code(file), "config": config.to_dict()}


def code(file: str) -> str:
    """A program without its comments, docstrings and layout: what two versions must share to be the same experiment."""
    tree = ast.parse(pathlib.Path(file).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def prepare(config: ConfigDict) -> None:
    """Joins the other hosts of a pod, and keeps compiled programs so that stages and restarts do not compile twice."""
    join()
    reach(config)
    jax.config.update("jax_compilation_cache_dir", storage.absolute(storage.path(config.workdir) / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def reach(config: ConfigDict) -> None:
    """Raises StorageError where one of a config's folders is in a bucket that cannot be used."""
    for name in (config.workdir, config.data, config.pairs):
        storage.reach(storage.path(name))


def join() -> None:
    """Joins the other hosts of a pod; alone there is nothing to join."""
    if "JAX_COORDINATOR_ADDRESS" in os.environ:  # launch/simulate.sh, or a cluster that JAX does not know
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            int(os.environ["JAX_NUM_PROCESSES"]),
            int(os.environ["JAX_PROCESS_ID"]),
        )
    elif "EMBED_POD" in os.environ or os.environ.get("TPU_WORKER_HOSTNAMES", "").count(","):
        # launch/worker.sh says so, or GKE does; the others are in the environment there, in the metadata of a TPU VM
        jax.distributed.initialize()
