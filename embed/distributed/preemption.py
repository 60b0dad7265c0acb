"""Requests to stop a run: Ctrl-C, and the SIGTERM that precedes a preemption."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

RESTART_STATUS = os.EX_TEMPFAIL  # 75, the exit status that means: start the same command again
# Counts the steps of all runs of this process: hosts agree on a number to stop at.
_steps = itertools.count()


class Restart(Exception):
    """Ends a run early, in a state from which the same command continues."""


@contextlib.contextmanager
def watch_signals() -> Iterator[Callable[[], signal.Signals | None]]:
    """Yield `stop_requested()`, which every host calls after every step: the signal that asks to stop there, or None.

    The first Ctrl-C waits for the end of the step, since orbax's threads are lost in the middle of a save; the second
    raises KeyboardInterrupt at once. On many hosts JAX listens for SIGTERM, tells all hosts when one gets it, and has
    them stop at the same step; Ctrl-C sends this process one. Outside the main thread no signal is watched.
    """
    is_single = jax.process_count() == 1
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    received: list[signal.Signals] = []

    def handle(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in received:
            raise KeyboardInterrupt
        received.append(signal.Signals(number))
        if number == signal.SIGINT:
            os.write(2, b"\nstopping after this step; press Ctrl-C again to end at once\n")
            if not is_single:
                os.kill(os.getpid(), signal.SIGTERM)

    def stop_requested() -> signal.Signals | None:
        if not is_single and not multihost_utils.reached_preemption_sync_point(next(_steps)):
            return None
        return received[0] if received else None if is_single else signal.SIGTERM

    watched = [signal.SIGINT, signal.SIGTERM] if is_single else [signal.SIGINT]
    handlers = {number: signal.signal(number, handle) for number in watched}
    try:
        yield stop_requested
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
