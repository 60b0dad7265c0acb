"""Checkpoints on disk: {step, encoder, loss, optimizer} by orbax, written in the background, with metadata.

A run's folder holds `checkpoints/STEP`, `tokenizer.json` and the logs. A soup's folder has the same form with the
encoder's parameters alone, so everything that reads a run reads a soup.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from etils import epath
from orbax.checkpoint import v1 as ocp

from embed.distributed import hosts, storage

GLOB_CHARACTERS = "*?[\\"  # orbax takes a path with one of these for a pattern


class CheckpointError(ValueError):
    """A checkpoint is missing, or does not fit its use; the message names both."""


def orbax_path(folder: storage.Path) -> str:
    """Return a folder's absolute path for orbax. Raises CheckpointError where orbax would take it for a pattern."""
    name = storage.absolute(folder)
    special = [character for character in GLOB_CHARACTERS if character in name]
    if special:
        raise CheckpointError(
            f"{name}: checkpoints cannot be written or read where the path contains {' '.join(special)}; "
            "rename its folders, or use another workdir"
        )
    return name


@contextlib.contextmanager
def checkpointer(run: storage.Path, every: int, keep: int) -> Iterator[ocp.training.Checkpointer]:
    """Yield a checkpointer that saves every `every` steps and keeps the last `keep`. Raises as `orbax_path` does."""
    saver = ocp.training.Checkpointer(
        orbax_path(run / "checkpoints"),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(every),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
    )
    try:
        yield saver
    except storage.Unreachable:
        raise  # closing would wait for what cannot be written, and raise that instead
    except BaseException:
        saver.close()
        raise
    saver.close()


def save(
    saver: ocp.training.Checkpointer, run: storage.Path, step: int, state: Any, metadata: dict[str, Any], wait: bool
) -> None:
    """Write a checkpoint, in the background unless `wait`.

    Where the run is in a bucket, a failure of this checkpoint or of the one before is logged and the current state is
    written again. Raises as `storage.with_retries` does.
    """

    def write() -> None:
        if step not in saved_steps(run):  # an attempt may fail after all is written
            save_step = saver.save if wait else saver.save_async
            save_step(step, state, custom_metadata=metadata, force=True, overwrite=True)

    storage.with_retries(write, run)


def saved_steps(run: storage.Path) -> list[int]:
    """Return the finished checkpoints of a run, ascending. Raises StorageError where its bucket cannot be used."""
    storage.check_access(run)
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and (p / "commit_success.txt").exists())


def locate(path: storage.Path) -> tuple[storage.Path, int]:
    """Return (run, step) of a run's folder, its last step, or of a `checkpoints/STEP` in it. Raises CheckpointError."""
    path = storage.path(path)
    if path.name.isdigit() and path.parent.name == "checkpoints":
        run, wanted = path.parent.parent, int(path.name)
    else:
        run, wanted = path, None
    steps = saved_steps(run)
    if not steps or wanted not in (None, *steps):
        raise CheckpointError(f"no finished checkpoint at {path}; steps there: {steps or 'none'}")
    return run, steps[-1] if wanted is None else wanted


def delete_steps(run: storage.Path, first: int) -> None:
    """Delete the checkpoints of a run from step `first` on. On many hosts all call this."""
    if hosts.is_primary():
        for step in saved_steps(run):
            if step >= first:
                epath.Path(run / "checkpoints" / str(step)).rmtree()
    hosts.barrier(f"deleted steps of {run}")
