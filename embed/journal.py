"""What a run says of itself, step by step, and when it has nothing good to say any more."""

import json
import logging
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from embed import hosts, storage
from embed.data.tasks import Task

log = logging.getLogger(__name__)


class Diverged(RuntimeError):
    """Too many updates in a row were not finite."""


class Journal:
    """Metrics to metrics.jsonl, TensorBoard, and a progress bar (on a terminal) or plain lines (in a log), by the first
    host; the others only watch that the run does not diverge."""

    def __init__(self, run: storage.Path, tasks: Sequence[Task], start: int, steps: int):
        self.tasks, leads = tasks, hosts.leads()
        self.run = run
        # Nothing is appended to an object: the files of a run in a bucket grow here, and `publish` writes them anew.
        self.draft = tempfile.TemporaryDirectory() if leads and storage.is_remote(run) else None
        folder = pathlib.Path(self.draft.name if self.draft else run)
        if leads:
            # Lines after the last checkpoint belong to steps that are about to run again.
            path = run / "metrics.jsonl"
            rows = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in rows if line.endswith("}") and json.loads(line)["step"] < start]
            with storage.whole(folder / "metrics.jsonl") as file:
                file.write_text("".join(line + "\n" for line in kept))
        self.file = (folder / "metrics.jsonl" if leads else pathlib.Path(os.devnull)).open("a")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start, write_to_disk=leads)
        self.plain = leads and not sys.stderr.isatty()
        hidden = self.plain or not leads
        self.bar = tqdm(total=steps, initial=start, desc=run.name, unit="step", disable=hidden)
        self.steps, self.first, self.begun = steps, start, time.monotonic()
        self.last = self.begun
        self.quarantined: dict[str, int] = {}

    def write(self, step: int, number: int, metrics: dict[str, jax.Array], every: int, patience: int) -> None:
        """One step's metrics; blocks until that step is done. Raises Diverged."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        task = self.tasks[number].name
        now = time.monotonic()
        row = {"step": step, "task": task, **values, "seconds": now - self.last}
        self.last = now
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(f"{task}/{name}", value, step)
        if values["quarantined"]:
            self.quarantined[task] = self.quarantined.get(task, 0) + int(values["quarantined"])
            log.warning("quarantined so far, by source: %s", self.quarantined)
        self.bar.update()
        self.bar.set_postfix_str(f"{task} loss {values['loss']:.3f}", refresh=False)
        if self.plain and ((step + 1) % every == 0 or step + 1 == self.steps):
            rate = (step + 1 - self.first) / (now - self.begun)
            left = (self.steps - step - 1) / rate
            line = "step %d/%d %s loss %.3f accuracy %.3f, %.2f steps/s, %.0f s left"
            log.info(line, step + 1, self.steps, task, values["loss"], values["accuracy"], rate, left)
        if values["skipped_in_a_row"] >= patience:
            self.publish()
            raise Diverged(
                f"{patience} updates in a row were not finite, at step {step} of task {task}; lower the rate"
            )

    def publish(self) -> None:
        """Brings a run's folder in a bucket up to date; other folders always are. Raises what writing there raises."""
        if self.draft is None:
            return
        self.board.flush()
        for file in filter(pathlib.Path.is_file, pathlib.Path(self.draft.name).rglob("*")):
            storage.copy(file, self.run / file.relative_to(self.draft.name))

    def close(self) -> None:
        self.file.close()
        self.board.close()
        self.bar.close()
        if self.draft is not None:
            self.draft.cleanup()
