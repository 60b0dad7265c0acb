"""Ends a process that hangs, to be started again: the other hosts would wait for it forever."""

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
    """Yield `heartbeat(activity, is_timed=True)`, to be called at the start of each activity.

    Where a timed activity takes longer than `limit` seconds, the stacks of all threads go to stderr and the process
    ends with RESTART_STATUS. On many hosts it also ends so where a timed activity raises a JaxRuntimeError: a program
    that ran before and fails now has lost a host or a device. Compiling, for example, is not timed, nor is what comes
    before the first heartbeat.
    """
    current: str | None = ""
    deadline = float("inf")
    changed = threading.Condition()

    def heartbeat(activity: str, is_timed: bool = True) -> None:
        nonlocal current, deadline
        with changed:
            current = activity
            deadline = time.monotonic() + limit if is_timed else float("inf")
            changed.notify()

    def watch() -> None:
        with changed:
            while current is not None:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    faulthandler.dump_traceback(all_threads=True)
                    _end(f"{current}: no progress for {limit:g} s; stacks above")
                changed.wait(min(remaining, threading.TIMEOUT_MAX))

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield heartbeat
    except jax.errors.JaxRuntimeError:
        if jax.process_count() > 1 and deadline < float("inf"):
            traceback.print_exc()
            _end(f"{current}: failed on many hosts; one of them may be gone")
        raise
    finally:
        with changed:
            current = None
            changed.notify()
        thread.join()


def _end(reason: str) -> None:
    """End the process at once: cleaning up would wait for other hosts."""
    print(f"{reason}. The same command continues from the last checkpoint.", file=sys.stderr, flush=True)
    os._exit(RESTART_STATUS)
