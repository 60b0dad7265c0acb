"""When a run stops because of its data: a task whose records are all bad, or more of them than it allows.

A bad record is one that cannot be read, decoded or fitted. A few are left out and counted; more say that the data are
not what the experiment takes them for.
"""

import collections
import math
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from embed.data.preprocess import Preprocessor
from embed.data.sources import Source
from embed.data.tasks import BadRecord, Task, make_example

WINDOW = 200  # records of a task


class DataError(ValueError):
    """A task with too many bad records; the message names it, their number, and what is wrong with the first."""


class Quarantine:
    """Counts the bad records of each task. All hosts of a run count the same and stop at the same step."""

    def __init__(
        self,
        tasks: Sequence[Task],
        sources: Sequence[Source],
        preprocessor: Preprocessor,
        order: grain.MapDataset,
        most: float,
    ):
        """`order` says which records a step's batch is of (`pipeline.order`); `most` is the share of a task's
        records that may be bad."""
        self.tasks, self.sources, self.preprocessor, self.order, self.most = tasks, sources, preprocessor, order, most
        self.windows = [collections.deque[int](maxlen=math.ceil(WINDOW / task.batch)) for task in tasks]
        self.seen = [0] * len(tasks)  # records of each task
        self.first: dict[int, int] = {}  # a task's first step with a bad record
        self.has_good: set[int] = set()

    def check(self, step: int, number: int, bad: int) -> None:
        """Counts the `bad` records of a step's batch of task `number`. Raises DataError where it has too many: in its
        last WINDOW records, in its first epoch, or where a whole batch and all of a sample are bad."""
        task, source, window = self.tasks[number], self.sources[number], self.windows[number]
        window.append(bad)
        self.seen[number] += task.batch
        if bad:
            self.first.setdefault(number, step)
        if bad == task.batch and not self._has_good(number):
            looked_at = len(_record_keys(source))
            raise DataError(f"task {task.name}: all of {looked_at} records looked at are bad; {self._reason(number)}")
        seen = len(window) * task.batch
        is_epoch = self.seen[number] - task.batch < len(source) <= self.seen[number]  # of a small task: all it has
        if (seen >= WINDOW or is_epoch) and sum(window) > self.most * seen:
            raise DataError(
                f"task {task.name}: {sum(window)} of its last {seen} records are bad, and max_bad allows a share of "
                f"{self.most:g}; {self._reason(number)}"
            )

    def _has_good(self, number: int) -> bool:
        """Whether some record of a sample of the task is good; read at most once for each task."""
        if number not in self.has_good:
            if all(self._fault(number, int(index), 0) for index in _record_keys(self.sources[number])):
                return False
            self.has_good.add(number)
        return True

    def _reason(self, number: int) -> str:
        """What is wrong with the first bad record of the task's batches: they are read again, here."""
        _, keys = self.order[self.first[number]]
        faults = (self._fault(number, index, seed) for index, seed in keys.tolist())
        return f"the first: {next(filter(None, faults), 'it can be read now')}"

    def _fault(self, number: int, index: int, seed: int) -> str | None:
        try:
            make_example(self.tasks[number], self.preprocessor, self.sources[number], index, seed)
        except BadRecord as error:
            return str(error)
        return None


def _record_keys(source: Source) -> Any:
    """Indices of at most WINDOW records, evenly from the first to the last."""
    return np.linspace(0, len(source) - 1, min(WINDOW, len(source))).astype(np.int64)
