"""How far a run or an evaluation is: a bar on a terminal, lines in a log, and the time left."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from embed.data.tasks import Task
from embed.distributed import hosts

log = logging.getLogger(__name__)
LOG_SECONDS = 30.0  # between the lines of `show_count`


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


@contextlib.contextmanager
def show_count(name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many more are done: a bar on a terminal, a line every LOG_SECONDS in a log."""
    is_shown, is_terminal = hosts.is_primary(), sys.stderr.isatty()
    done, start = 0, time.monotonic()
    logged = start
    with tqdm(total=total, desc=name, unit=unit, disable=not (is_shown and is_terminal), leave=False) as bar:

        def advance(count: int) -> None:
            nonlocal done, logged
            done += count
            bar.update(count)
            now = time.monotonic()
            if is_shown and not is_terminal and now - logged >= LOG_SECONDS:
                logged, rate = now, done / (now - start)
                left = (total - done) / rate
                log.info("%s: %d of %d %ss, %.1f %ss/s, %.0f s left", name, done, total, unit, rate, unit, left)

        yield advance
