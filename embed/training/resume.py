"""Restoring a run's state from its own checkpoints: the last one that can be read, if it is of the same experiment."""

import difflib
import logging
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from embed.data.preprocess import Preprocessor
from embed.distributed import storage
from embed.distributed.preemption import Restart
from embed.training import checkpoint
from embed.training.checkpoint import CheckpointError
from embed.training.metadata import check_input_spec, read_metadata
from embed.training.weights import check_finite

log = logging.getLogger(__name__)
# The metadata that two runs must share to be the same run.
IDENTITY = (
    *("experiment", "program", "architecture", "tasks", "data", "seed", "dtype"),
    *("trained_parameters", "loss_parameters", "optimizer"),
)
MAX_DIFFERENCES = 8  # in an error


def restore(run: storage.Path, target: Any, metadata: dict[str, Any], preprocessor: Preprocessor) -> Any:
    """Load the state of a run's last checkpoint, sharded as `target`; None where the run has no checkpoint.

    A corrupt checkpoint is renamed to checkpoints/unreadable-STEP with a warning, and the previous one is used. Raises
    CheckpointError where the checkpoint is of another run (naming what changed), its parameters are not finite, or all
    checkpoints are corrupt; on many hosts Restart instead of using a previous one, since all hosts have to.
    """
    corrupt = []
    for step in reversed(checkpoint.saved_steps(run)):
        folder = run / "checkpoints" / str(step)
        try:
            check_same_run(folder, metadata, preprocessor)
            state = ocp.load(checkpoint.orbax_path(folder), target, checkpointable_name="state")
        except (CheckpointError, storage.StorageError, jax.errors.JaxRuntimeError):
            raise  # of another run, of a bucket, or too large for this memory: the checkpoint is not corrupt
        except Exception as error:  # libraries share no class for a corrupt file
            storage.check_access(run)
            log.warning(
                "checkpoint %s cannot be read (%s); it is renamed to unreadable-%d",
                folder,
                storage.short_message(error),
                step,
            )
            _rename(folder, folder.with_name(f"unreadable-{step}"))
            corrupt.append(step)
            if jax.process_count() > 1:
                raise Restart(f"checkpoint {folder} cannot be read on host {jax.process_index()}") from error
            continue
        check_finite({"encoder": state["encoder"], "loss": state["loss"]}, folder)
        return state
    if corrupt:
        raise CheckpointError(
            f"no checkpoint of {run} can be read; steps {corrupt} are now checkpoints/unreadable-*: repair one of them "
            f"and name it by its step again, or delete {run} to start anew"
        )
    return None


def check_same_run(folder: storage.Path, metadata: dict[str, Any], preprocessor: Preprocessor) -> None:
    """Raise CheckpointError, naming the differences, where a checkpoint is not of the run that `metadata` describe."""
    saved = read_metadata(folder)
    check_input_spec(folder, preprocessor)  # raises KeyError where the metadata are incomplete
    if "data" not in saved:  # of an early version
        log.warning("%s does not name its training data; they are taken to be today's", folder)
        saved["data"] = metadata.get("data")
    differences = [line for name in IDENTITY for line in diff_json(saved.get(name), metadata.get(name), name)]
    if differences:
        hidden = len(differences) - MAX_DIFFERENCES
        more = f"\n  and {hidden} more" if hidden > 0 else ""
        listed = "".join(f"\n  {line}" for line in differences[:MAX_DIFFERENCES])
        raise CheckpointError(
            f"{folder} is of another run than this one:{listed}{more}\n"
            "use another workdir or name, undo the change, or delete that run"
        )


def diff_json(before: Any, after: Any, name: str) -> Iterator[str]:
    """Yield a line per difference of two pieces of plain JSON; of programs, the changed lines."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from diff_json(before.get(key), after.get(key), f"{name}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, items in enumerate(zip(before, after, strict=True)):
            yield from diff_json(*items, f"{name}[{i}]")
    elif isinstance(before, str) and isinstance(after, str) and "\n" in before:
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
        yield from (f"{name}: {line}" for line in lines if not line.startswith(("---", "+++", "@@")))
    elif before != after:
        yield f"{name} was {_shorten(before)} and is {_shorten(after)}"


def _shorten(value: Any) -> str:
    text = "absent" if value is None else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _rename(folder: storage.Path, new: storage.Path) -> None:
    """Rename a checkpoint; on many hosts one of them comes first."""
    try:
        if new.exists():
            epath.Path(new).rmtree()
        folder.rename(new)
    except FileNotFoundError:
        pass
