"""Metrics of a run, step by step: metrics.jsonl, TensorBoard, and the user's progress."""

import dataclasses
import json
import logging
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from tensorboardX import SummaryWriter

from embed.data.tasks import Task
from embed.distributed import hosts, storage
from embed.training.progress import Progress

log = logging.getLogger(__name__)
NOT_IN_TAGS = re.compile(r"[^\w./-]")  # characters that TensorBoard would replace with a warning


class Diverged(RuntimeError):
    """Too many updates in a row were not finite."""


@dataclasses.dataclass(frozen=True)
class StepTiming:
    """What is known of a step beside its metrics."""

    task: int
    waited: float  # seconds for its batch; the device may have been busy with the step before, so at most this was lost
    peak_seconds: float | None  # seconds that its encoding, without recomputation, takes at the device's peak
    is_compiled: bool  # not the first of its task in this process, which compiles


class MetricsLogger:
    """Writes metrics.jsonl and TensorBoard and shows progress, on the primary host; others only watch for divergence.

    A row of metrics.jsonl is a step's: its loss's metrics, and `seconds` since the step before, `waited` of them for
    data, `pairs_per_s`, `tokens_per_s` (without padding), `mfu` where the device's peak is known, `productive_seconds`,
    and `goodput`: the share of the time since the run was first started that was productive, which compiling, saving,
    evaluating, waiting for data, being away, and lost steps are not. A row without `task` is an evaluation's; its
    `step` is the number of steps before it.
    """

    def __init__(self, run: storage.Path, tasks: Sequence[Task], first: int, steps: int, every: int, patience: int):
        """Open the files at step `first`, dropping rows of steps that run again.

        Every `every` steps a line goes to the log. After `patience` updates in a row that are not finite the run has
        diverged.
        """
        self.run, self.tasks, self.patience = run, tasks, patience
        is_primary = hosts.is_primary()
        # Objects of a bucket cannot be appended to: files grow in a local draft, and `publish` uploads them whole.
        self.draft = tempfile.TemporaryDirectory() if is_primary and storage.is_remote(run) else None
        folder = pathlib.Path(self.draft.name if self.draft else run)
        self.productive_seconds, self.started = 0.0, time.time()
        if is_primary:
            kept = _read_rows(run / "metrics.jsonl", first)
            with storage.atomic_write(folder / "metrics.jsonl") as file:
                file.write_text("".join(json.dumps(row) + "\n" for row in kept))
            self.productive_seconds = sum(row.get("productive_seconds", 0.0) for row in kept)
            self.started = _read_or_write_start(run / "started.txt", self.started)
        self.file = (folder / "metrics.jsonl" if is_primary else pathlib.Path(os.devnull)).open("a")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first, write_to_disk=is_primary)
        self.progress = Progress(run.name, tasks, first, steps, every, is_shown=is_primary)
        self.quarantined: dict[str, int] = {}
        self.warned: set[str] = set()  # tasks that had a batch without any negative
        self.last = time.monotonic()

    def __enter__(self) -> "MetricsLogger":
        return self

    def write(self, step: int, timing: StepTiming, metrics: dict[str, jax.Array]) -> dict[str, float]:
        """Write one step's metrics and return them as floats; blocks until that step is done. Raises Diverged."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        task = self.tasks[timing.task]
        row = {"step": step, "task": task.name, **values, **self._rates(task, timing, values["tokens"])}
        self._append(row, task.name, step)
        self._warn(task.name, step, values)
        self.progress.step(step, row, timing.is_compiled)
        if values["skipped_in_a_row"] >= self.patience:
            self.publish()
            raise Diverged(
                f"{self.patience} updates in a row were not finite, at step {step} of task {task.name}; lower the "
                "learning rate"
            )
        return values

    def write_scores(self, step: int, scores: dict[str, float]) -> None:
        """Write what evaluations return after `step` steps; their time is no step's."""
        self._append({"step": step, **scores}, "", step)
        self.progress.scores(step, scores)
        self.last = time.monotonic()

    def publish(self) -> None:
        """Upload the files of a run in a bucket; other folders are always up to date. Raises as writing there does."""
        if self.draft is None:
            return
        self.board.flush()
        for file in filter(pathlib.Path.is_file, pathlib.Path(self.draft.name).rglob("*")):
            storage.copy(file, self.run / file.relative_to(self.draft.name))

    def __exit__(self, *_: Any) -> None:
        for resource in (self.file, self.board, self.progress):
            resource.close()
        if self.draft is not None:
            self.draft.cleanup()

    def _append(self, row: dict[str, Any], prefix: str, step: int) -> None:
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for name in row.keys() - {"step", "task"}:
            tag = f"{prefix}/{name}" if prefix else name
            self.board.add_scalar(NOT_IN_TAGS.sub("_", tag), row[name], step)

    def _warn(self, task: str, step: int, values: dict[str, float]) -> None:
        if values["quarantined"]:
            self.quarantined[task] = self.quarantined.get(task, 0) + int(values["quarantined"])
            log.warning("quarantined so far, by source: %s", self.quarantined)
        if values["pairs"] and values.get("effective_negatives") == 0 and task not in self.warned:
            self.warned.add(task)
            log.warning(
                "task %s, step %d: no query has a negative, so there is nothing to learn: the batch is of one pair, or "
                "its queries or its positives are all equal; give the task larger batches or hard negatives",
                task,
                step,
            )

    def _rates(self, task: Task, timing: StepTiming, tokens: float) -> dict[str, float]:
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        productive = max(seconds - timing.waited, 0.0) if timing.is_compiled else 0.0
        self.productive_seconds += productive
        rates = {"seconds": seconds, "waited": timing.waited, "productive_seconds": productive}
        rates |= {"pairs_per_s": task.batch / seconds, "tokens_per_s": tokens / seconds}
        if timing.peak_seconds is not None:
            rates["mfu"] = timing.peak_seconds / seconds
        return rates | {"goodput": min(self.productive_seconds / max(time.time() - self.started, 1e-9), 1.0)}


def _read_rows(path: storage.Path, first: int) -> list[dict[str, Any]]:
    """Read the rows of steps before `first`; a torn last line is dropped."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return [row for row in rows if row["step"] < first]


def _read_or_write_start(path: storage.Path, now: float) -> float:
    """Return when the run was first started, in seconds since the epoch; `now` if it was not yet."""
    if path.exists():
        return float(path.read_text())
    with storage.atomic_write(path) as file:
        file.write_text(f"{now}\n")
    return now
