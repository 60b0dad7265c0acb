"""What a run logged, read for the page."""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np

from embed.distributed import storage

Series = tuple[list[float], list[float]]  # steps, values


@dataclasses.dataclass(frozen=True)
class Curves:
    """What one run logged."""

    name: str
    tasks: Mapping[str, Mapping[str, Series]]  # task -> "loss", "accuracy" -> series
    evals: Mapping[str, Series] = dataclasses.field(default_factory=dict)  # "NAME/METRIC" -> series

    def mean(self, metric: str) -> Series:
        """A metric of all tasks in the order of steps."""
        points = sorted(
            (step, value)
            for series in self.tasks.values()
            for step, value in zip(*series[metric], strict=True)
            if np.isfinite(value)
        )
        return [step for step, _ in points], [value for _, value in points]


def read_curves(run: storage.Path) -> Curves:
    """Read the loss, in-batch accuracy and evaluations in a run's metrics.jsonl; a torn last line is left out."""
    tasks: dict[str, dict[str, Series]] = {}
    evals: dict[str, Series] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        if not line.endswith("}"):
            continue
        row = json.loads(line)
        if "task" in row:
            series = tasks.setdefault(row["task"], {"loss": ([], []), "accuracy": ([], [])})
            for name in series.keys() & row.keys():
                _append(series[name], row["step"], row[name])
        for name in row:
            if name.startswith("eval/"):
                _append(evals.setdefault(name.removeprefix("eval/"), ([], [])), row["step"], row[name])
    return Curves(run.name, tasks, evals)


def _append(series: Series, step: float, value: float) -> None:
    steps, values = series
    steps.append(step)
    values.append(value)
