"""A run that is asked to stop: by Ctrl-C, or by the SIGTERM that comes before its machine is taken away."""

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
# Of all steps of this process, so that hosts in different runs of one program agree on one to stop at.
_steps = itertools.count()


class Restart(Exception):
    """Ends a run early, in a state from which the same command continues."""


@contextlib.contextmanager
def watch_signals() -> Iterator[Callable[[], signal.Signals | None]]:
    """Gives `asked()`, to be called after every step, by every host: the signal that asks to stop there, or None.

    On many hosts JAX listens for SIGTERM, tells all of them when one gets it, and has them stop at the same step. A
    second Ctrl-C raises KeyboardInterrupt at once: the first waits for the step, since orbax's threads are lost in the
    middle of a save. In a thread that is not the main one nothing is listened to.
    """
    alone = jax.process_count() == 1
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    pressed: list[signal.Signals] = []

    def press(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in pressed:
            raise KeyboardInterrupt
        pressed.append(signal.Signals(number))

    def asked() -> signal.Signals | None:
        if not alone and multihost_utils.reached_preemption_sync_point(next(_steps)):
            return signal.SIGTERM
        return pressed[0] if pressed else None

    listened = [signal.SIGINT, signal.SIGTERM] if alone else [signal.SIGINT]
    before = {number: signal.signal(number, press) for number in listened}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
