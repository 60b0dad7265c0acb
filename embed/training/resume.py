"""Going on from a run's checkpoints: the last one that is whole, if it is of the same experiment."""

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
# What makes two runs one, of a checkpoint's metadata.
SAME = (
    *("experiment", "program", "architecture", "tasks", "data", "seed", "dtype"),
    *("trained_parameters", "loss_parameters", "optimizer"),
)
SHOWN = 8  # differences named in an error


def restore(run: storage.Path, target: Any, meta: dict[str, Any], preprocessor: Preprocessor) -> Any:
    """What the run's last whole checkpoint holds, on the layout of `target`; None where there is none.

    One that cannot be read is moved aside, to `checkpoints/unreadable-STEP`, and said; the one before it is taken.
    Raises CheckpointError, naming what changed, where it is of another run, where its parameters are not finite, or
    where all are unreadable; on many hosts Restart instead of going back, since the others have to do the same.
    """
    unread = []
    for step in reversed(checkpoint.saved_steps(run)):
        folder = run / "checkpoints" / str(step)
        try:
            refuse_another(folder, meta, preprocessor)
            state = ocp.load(checkpoint.orbax_path(folder), target, checkpointable_name="state")
        except (CheckpointError, storage.StorageError, jax.errors.JaxRuntimeError):
            raise  # of another run, of a bucket, or too large for this memory: not the checkpoint's fault
        except Exception as error:  # libraries have no common one for a file that is not whole
            storage.check_access(run)
            log.warning("checkpoint %s cannot be read (%s); it is moved aside", folder, storage.short_message(error))
            _move(folder, folder.with_name(f"unreadable-{step}"))
            unread.append(step)
            if jax.process_count() > 1:
                raise Restart(f"checkpoint {folder} cannot be read on host {jax.process_index()}") from error
            continue
        check_finite({"encoder": state["encoder"], "loss": state["loss"]}, folder)
        log.info("resuming %s at step %d", run, step)
        return state
    if unread:
        raise CheckpointError(
            f"no checkpoint of {run} can be read; steps {unread} are now checkpoints/unreadable-*: repair one of them "
            f"and name it by its step again, or delete {run} to start anew"
        )
    return None


def refuse_another(folder: storage.Path, meta: dict[str, Any], preprocessor: Preprocessor) -> None:
    """Raises CheckpointError, naming the differences, where a checkpoint is of another run than `meta` and `preprocessor`."""
    saved = read_metadata(folder)
    check_input_spec(folder, preprocessor)  # fails where the metadata is not whole
    if "data" not in saved:  # of an earlier version
        log.warning("%s does not say what data it was trained on; it is taken for that of today", folder)
        saved["data"] = meta.get("data")
    found = [line for name in SAME for line in differences(saved.get(name), meta.get(name), name)]
    if found:
        more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        listed = "".join(f"\n  {line}" for line in found[:SHOWN])
        raise CheckpointError(
            f"{folder} is of another run than this one:{listed}{more}\n"
            "give this one another workdir or name, undo the change, or delete that run"
        )


def differences(was: Any, now: Any, name: str) -> Iterator[str]:
    """One line for each place where two pieces of plain JSON differ; of programs, the changed lines."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted(was.keys() | now.keys()):
            yield from differences(was.get(key), now.get(key), f"{name}.{key}")
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for i, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from differences(one, other, f"{name}[{i}]")
    elif isinstance(was, str) and isinstance(now, str) and "\n" in was:
        lines = difflib.unified_diff(was.splitlines(), now.splitlines(), lineterm="", n=0)
        yield from (f"{name}: {line}" for line in lines if not line.startswith(("---", "+++", "@@")))
    elif was != now:
        yield f"{name} was {_short(was)} and is {_short(now)}"


def _short(value: Any) -> str:
    text = "absent" if value is None else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _move(folder: storage.Path, aside: storage.Path) -> None:
    """Renames a checkpoint; on many hosts one of them comes first."""
    try:
        if aside.exists():
            epath.Path(aside).rmtree()
        folder.rename(aside)
    except FileNotFoundError:
        pass
