"""What a run says of itself, step by step, and when it has nothing good to say any more."""

import dataclasses
import json
import logging
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from embed.data.tasks import Task
from embed.distributed import hosts, storage

log = logging.getLogger(__name__)


class Diverged(RuntimeError):
    """Too many updates in a row were not finite."""


@dataclasses.dataclass(frozen=True)
class StepTiming:
    """What is known of a step beside its metrics."""

    task: int
    waited: float  # seconds for its batch; the device may have been busy with the step before, so at most this was lost
    at_peak: float | None  # seconds that its encoding, nothing made twice, takes at the device's peak; None = not known
    counts: bool  # not the first of its task in this process, which compiles


class MetricsLogger:
    """Metrics to metrics.jsonl, TensorBoard, and a progress bar (on a terminal) or plain lines (in a log), by the first
    host; the others only watch that the run does not diverge.

    Beside a step's metrics: `seconds` from the one before, `waited` of them for data, `pairs_per_s`, `tokens_per_s`
    (padding not counted), `mfu` where the device's peak is known, and `goodput`, the share of the time since the run
    was first started that went into steps which count: not into compiling, saving, waiting for data, being away, or
    steps that were lost.
    """

    def __init__(self, run: storage.Path, tasks: Sequence[Task], start: int, steps: int, every: int, patience: int):
        """Opens the files at step `start`; lines after it belong to steps that are about to run again. `every` steps a
        line goes to the log, and after `patience` updates in a row that were not finite the run has diverged."""
        self.run, self.tasks, self.every, self.patience = run, tasks, every, patience
        self.first, self.steps = start, steps
        leads = hosts.is_primary()
        # Nothing is appended to an object: the files of a run in a bucket grow here, and `publish` writes them anew.
        self.draft = tempfile.TemporaryDirectory() if leads and storage.is_remote(run) else None
        folder = pathlib.Path(self.draft.name if self.draft else run)
        self.useful, self.started = 0.0, time.time()
        if leads:
            path, first = run / "metrics.jsonl", run / "started.txt"
            rows = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in rows if line.endswith("}") and json.loads(line)["step"] < start]
            with storage.atomic_write(folder / "metrics.jsonl") as file:
                file.write_text("".join(line + "\n" for line in kept))
            self.useful = sum(json.loads(line).get("useful", 0.0) for line in kept)
            if first.exists():
                self.started = float(first.read_text())
            else:
                with storage.atomic_write(first) as file:
                    file.write_text(f"{self.started}\n")
        self.file = (folder / "metrics.jsonl" if leads else pathlib.Path(os.devnull)).open("a")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start, write_to_disk=leads)
        self.plain = leads and not sys.stderr.isatty()
        hidden = self.plain or not leads
        self.bar = tqdm(total=steps, initial=start, desc=run.name, unit="step", disable=hidden)
        self.quarantined: dict[str, int] = {}
        self.warned: set[str] = set()  # tasks whose loss could only be zero in some batch
        self.begun = self.last = time.monotonic()

    def __enter__(self) -> "MetricsLogger":
        return self

    def write(self, step: int, work: StepTiming, metrics: dict[str, jax.Array]) -> dict[str, float]:
        """One step's metrics, which it returns as numbers; blocks until that step is done. Raises Diverged."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        task = self.tasks[work.task]
        row = {"step": step, "task": task.name, **values, **self._rates(task, work, values["tokens"])}
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for name in row.keys() - {"step", "task"}:
            self.board.add_scalar(f"{task.name}/{name}", row[name], step)
        if values["quarantined"]:
            self.quarantined[task.name] = self.quarantined.get(task.name, 0) + int(values["quarantined"])
            log.warning("quarantined so far, by source: %s", self.quarantined)
        if values["pairs"] and values.get("effective_negatives") == 0 and task.name not in self.warned:
            self.warned.add(task.name)
            log.warning(
                "task %s, step %d: no query has a negative, so there is nothing to learn: the batch is of one pair, or "
                "its queries or its positives are all equal; give the task larger batches or hard negatives",
                task.name,
                step,
            )
        self.bar.update()
        self.bar.set_postfix_str(f"{task.name} loss {values['loss']:.3f}", refresh=False)
        if self.plain and ((step + 1) % self.every == 0 or step + 1 == self.steps):
            log.info("%s", self._line(step, row))
        if values["skipped_in_a_row"] >= self.patience:
            self.publish()
            raise Diverged(
                f"{self.patience} updates in a row were not finite, at step {step} of task {task.name}; lower the rate"
            )
        return values

    def _rates(self, task: Task, work: StepTiming, tokens: float) -> dict[str, float]:
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        useful = max(seconds - work.waited, 0.0) if work.counts else 0.0
        self.useful += useful
        rates = {"seconds": seconds, "waited": work.waited, "useful": useful}
        rates |= {"pairs_per_s": task.batch / seconds, "tokens_per_s": tokens / seconds}
        if work.at_peak is not None:
            rates["mfu"] = work.at_peak / seconds
        return rates | {"goodput": min(self.useful / max(time.time() - self.started, 1e-9), 1.0)}

    def _line(self, step: int, row: dict[str, Any]) -> str:
        rate = (step + 1 - self.first) / (time.monotonic() - self.begun)
        said = [f"step {step + 1}/{self.steps} {row['task']} loss {row['loss']:.3f}"]
        said += [f"accuracy {row['accuracy']:.3f}"] if "accuracy" in row else []
        said += [f"{rate:.2f} steps/s, {row['pairs_per_s']:.0f} pairs/s, {row['tokens_per_s']:.0f} tokens/s"]
        said += [f"{100 * row['padding']:.0f} % padding, {100 * row['waited'] / row['seconds']:.0f} % waiting for data"]
        said += [f"MFU {100 * row['mfu']:.0f} %"] if "mfu" in row else []
        return ", ".join([*said, f"goodput {100 * row['goodput']:.0f} %, {(self.steps - step - 1) / rate:.0f} s left"])

    def publish(self) -> None:
        """Brings a run's folder in a bucket up to date; other folders always are. Raises what writing there raises."""
        if self.draft is None:
            return
        self.board.flush()
        for file in filter(pathlib.Path.is_file, pathlib.Path(self.draft.name).rglob("*")):
            storage.copy(file, self.run / file.relative_to(self.draft.name))

    def __exit__(self, *_: Any) -> None:
        for part in (self.file, self.board, self.bar):
            part.close()
        if self.draft is not None:
            self.draft.cleanup()
