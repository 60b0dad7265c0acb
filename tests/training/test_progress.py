"""What a user sees of a run: programs as they compile, the rate, and the time left without compiling."""

import dataclasses
import io
import sys

from test_loop import GOOD, Records, fit

from embed.training import progress
from embed.training.progress import Progress, show_count

TASKS = [GOOD, dataclasses.replace(GOOD, name="other")]


def row(task: str, seconds: float) -> dict:
    rates = {"pairs_per_s": 4 / seconds, "tokens_per_s": 32 / seconds, "goodput": 0.5, "padding": 0.25}
    return {"task": task, "loss": 1.25, "seconds": seconds, "waited": seconds / 4, **rates}


def show(progress: Progress) -> None:
    """Four of ten steps: two that compile for 100 seconds, then two of 3 and 5 seconds."""
    for step, (task, seconds) in enumerate([("good", 100), ("other", 100), ("good", 3), ("other", 5)]):
        if step < 2:
            progress.compiling(task)
        progress.step(step, row(task, seconds), is_compiled=step >= 2)
    progress.close()


def test_a_log_has_lines_and_the_time_left_leaves_compiling_out(caplog):
    caplog.set_level("INFO")
    show(Progress("run", TASKS, 0, steps=10, every=2))
    compiling, other, first, second = caplog.messages
    assert (compiling, other) == ("compiling 1 of 2: good", "compiling 2 of 2: other")
    assert first.startswith("step 2/10 other loss 1.250, 0 pairs/s") and "left" not in first
    assert second.startswith(
        "step 4/10 other loss 1.250, 0.25 steps/s, 1 pairs/s, 6 tokens/s, 25 % padding, 25 % waiting"
    )
    assert second.endswith("24 s left")  # six steps of four seconds


def test_a_terminal_has_a_bar(monkeypatch, caplog):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    caplog.set_level("INFO")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    show(Progress("run", TASKS, 0, steps=10, every=2))
    shown = terminal.getvalue()
    assert "compiling 2 of 2: other" in shown and "run:  40%" in shown and "4/10" in shown
    assert "other loss 1.250, 0.25 steps/s, 24 s left" in shown and not caplog.messages


def test_a_run_names_what_it_compiles(tmp_path, preprocessor, caplog):
    caplog.set_level("INFO")
    fit(tmp_path, preprocessor, TASKS, [Records(), Records()], steps=4)
    compiling = [message for message in caplog.messages if message.startswith("compiling")]
    names = [message.rpartition(" ")[2] for message in compiling]
    assert sorted(names) == ["good", "other"]
    assert compiling == [f"compiling {number} of 2: {name}" for number, name in enumerate(names, 1)]


def count_to(total: int) -> None:
    with show_count("embedding", total, "input") as advance:
        for _ in range(total // 5):
            advance(5)


def test_a_log_has_a_line_of_a_count_now_and_then(monkeypatch, caplog):
    caplog.set_level("INFO")
    clock = iter(range(0, 1000, 10))  # ten seconds a look
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    count_to(40)
    assert caplog.messages == [
        "embedding: 15 of 40 inputs, 0.5 inputs/s, 50 s left",
        "embedding: 30 of 40 inputs, 0.5 inputs/s, 20 s left",
    ]


def test_a_short_count_leaves_no_line(caplog):
    caplog.set_level("INFO")
    count_to(40)
    assert not caplog.messages
