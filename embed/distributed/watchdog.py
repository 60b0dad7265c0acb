"""A run that stands still ends, to be started again: a host that hangs would keep the others waiting for ever."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import jax

from embed.distributed.preemption import RESTART_STATUS


@contextlib.contextmanager
def watchdog(limit: float) -> Iterator[Callable[..., None]]:
    """Gives `beat(what, counted=True)`, to be called before each thing that is done.

    Where a counted thing takes longer than `limit` seconds, the stacks of all threads go to stderr and the process ends
    with status RESTART_STATUS. On many hosts it ends so, too, where a counted thing raises JAX's error: a program that ran
    before and fails now has lost a host or a device. Not counted is what may take as long as it wants, such as
    compiling, and what comes before the first beat.
    """
    doing: str | None = ""
    until = float("inf")
    changed = threading.Condition()

    def beat(what: str, counted: bool = True) -> None:
        nonlocal doing, until
        with changed:
            doing, until = what, time.monotonic() + limit if counted else float("inf")
            changed.notify()

    def watch() -> None:
        with changed:
            while doing is not None:
                left = until - time.monotonic()
                if left <= 0:
                    faulthandler.dump_traceback(all_threads=True)
                    _end(f"{doing}: nothing for {limit:g} s; stacks above")
                changed.wait(min(left, threading.TIMEOUT_MAX))

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield beat
    except jax.errors.JaxRuntimeError:
        if jax.process_count() > 1 and until < float("inf"):
            traceback.print_exc()
            _end(f"{doing}: failed on many hosts; one of them may be gone")
        raise
    finally:
        with changed:
            doing = None
            changed.notify()
        thread.join()


def _end(why: str) -> None:
    """Ends the process at once: what would be cleaned up waits for other hosts."""
    print(f"{why}. The same command goes on from the last checkpoint.", file=sys.stderr, flush=True)
    os._exit(RESTART_STATUS)
