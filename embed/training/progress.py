"""How far a run is: a bar on a terminal, lines in a log, and the time left."""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from embed.data.tasks import Task

log = logging.getLogger(__name__)


class Progress:
    """Shows a run's progress to the user of one host.

    The time left is the number of remaining steps times the mean time of steps that did not compile.
    """

    def __init__(self, name: str, tasks: Sequence[Task], first: int, steps: int, every: int, is_shown: bool = True):
        """Start at step `first`; in a log, `every` steps write a line."""
        self.tasks, self.steps, self.every = tasks, steps, every
        self.is_log = is_shown and not sys.stderr.isatty()
        self.seconds, self.timed_steps, self.num_compiled = 0.0, 0, 0
        self.bar = tqdm(
            total=steps,
            initial=first,
            desc=name,
            disable=self.is_log or not is_shown,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )

    def compiling(self, task: str) -> None:
        """Announce that the next step compiles a task's program."""
        self.num_compiled += 1
        text = f"compiling {self.num_compiled} of {len(self.tasks)}: {task}"
        self.bar.set_postfix_str(text)
        if self.is_log:
            log.info("%s", text)

    def step(self, step: int, row: dict[str, Any], is_compiled: bool) -> None:
        """Show a step's row of metrics.jsonl; `is_compiled` says that its time was not spent on compiling."""
        if is_compiled:
            self.seconds += row["seconds"]
            self.timed_steps += 1
        rate = f"{self.timed_steps / self.seconds:.2f} steps/s" if self.timed_steps else ""
        left = f"{self.seconds_left(step):.0f} s left" if self.timed_steps else ""
        loss = f"{row['task']} loss {row['loss']:.3f}"
        self.bar.update()
        self.bar.set_postfix_str(", ".join(filter(None, [loss, rate, left])), refresh=False)
        if self.is_log and ((step + 1) % self.every == 0 or step + 1 == self.steps):
            log.info(
                "%s", ", ".join(filter(None, [f"step {step + 1}/{self.steps} {loss}", *_details(row, rate), left]))
            )

    def seconds_left(self, step: int) -> float:
        """Return the estimated seconds from the end of `step` to the end of the run."""
        return (self.steps - step - 1) * self.seconds / self.timed_steps

    def scores(self, step: int, scores: dict[str, float]) -> None:
        """Show the scores of an evaluation after `step` steps."""
        text = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        with tqdm.external_write_mode():
            log.info("step %d/%d %s", step, self.steps, text)

    def close(self) -> None:
        self.bar.close()


def _details(row: dict[str, Any], rate: str) -> list[str]:
    return [
        f"accuracy {row['accuracy']:.3f}" if "accuracy" in row else "",
        rate,
        f"{row['pairs_per_s']:.0f} pairs/s, {row['tokens_per_s']:.0f} tokens/s",
        f"{100 * row['padding']:.0f} % padding, {100 * row['waited'] / row['seconds']:.0f} % waiting for data",
        f"MFU {100 * row['mfu']:.0f} %" if "mfu" in row else "",
        f"goodput {100 * row['goodput']:.0f} %",
    ]
