"""Stops a run whose data is bad: a task with too many bad records, or with no good one.

A bad record cannot be read, decoded, or fitted into its task's budget. A few are skipped and counted; more mean that
the data is not what the experiment expects.
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
    """A task has too many bad records; the message names it, their number, and the fault of the first."""


class Quarantine:
    """Counts the bad records of each task. All hosts of a run count the same and stop at the same step."""

    def __init__(
        self,
        tasks: Sequence[Task],
        sources: Sequence[Source],
        preprocessor: Preprocessor,
        order: grain.MapDataset,
        max_bad: float,
    ):
        """`order` gives the records of every step's batch (`mixture.task_order`); `max_bad` is the share of a task's
        records that may be bad."""
        self.tasks, self.sources, self.preprocessor, self.order = tasks, sources, preprocessor, order
        self.max_bad = max_bad
        self.windows = [collections.deque[int](maxlen=math.ceil(WINDOW / task.batch)) for task in tasks]
        self.num_records = [0] * len(tasks)  # of each task, so far
        self.first_bad: dict[int, int] = {}  # task -> its first step with a bad record
        self.has_good: set[int] = set()

    def check(self, step: int, number: int, bad: int) -> None:
        """Count the `bad` records of a step's batch of task `number`.

        Raises DataError where a task has too many in its last WINDOW records or in its first epoch, or where a whole
        batch and all of a sample are bad.
        """
        task, source, window = self.tasks[number], self.sources[number], self.windows[number]
        window.append(bad)
        self.num_records[number] += task.batch
        if bad:
            self.first_bad.setdefault(number, step)
        if bad == task.batch and not self._has_good(number):
            sampled = len(_sample_indices(source))
            raise DataError(f"task {task.name}: all of {sampled} records sampled are bad; {self._first_fault(number)}")
        counted = len(window) * task.batch
        is_first_epoch = self.num_records[number] - task.batch < len(source) <= self.num_records[number]
        if (counted >= WINDOW or is_first_epoch) and sum(window) > self.max_bad * counted:
            raise DataError(
                f"task {task.name}: {sum(window)} of its last {counted} records are bad, and max_bad allows a share of "
                f"{self.max_bad:g}; {self._first_fault(number)}"
            )

    def _has_good(self, number: int) -> bool:
        """Return whether a sample of the task has a good record; read at most once per task."""
        if number not in self.has_good:
            if all(self._fault(number, int(index), 0) for index in _sample_indices(self.sources[number])):
                return False
            self.has_good.add(number)
        return True

    def _first_fault(self, number: int) -> str:
        """Read the task's first batch with a bad record again, and return the fault."""
        _, keys = self.order[self.first_bad[number]]
        faults = (self._fault(number, index, seed) for index, seed in keys.tolist())
        return f"the first: {next(filter(None, faults), 'it can be read now')}"

    def _fault(self, number: int, index: int, seed: int) -> str | None:
        try:
            make_example(self.tasks[number], self.preprocessor, self.sources[number], index, seed)
        except BadRecord as error:
            return str(error)
        return None


def _sample_indices(source: Source) -> Any:
    """Return the indices of at most WINDOW records, evenly spaced from the first to the last."""
    return np.linspace(0, len(source) - 1, min(WINDOW, len(source))).astype(np.int64)
