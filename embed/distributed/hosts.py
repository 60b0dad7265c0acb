"""Many hosts run one program: which host writes for all, and where they wait for each other."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from embed.distributed import lock, storage


def is_primary() -> bool:
    """Return whether this host writes the shared files: logs, tokenizers, results."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Return when all hosts have reached this call: what one has written, the others can read."""
    multihost_utils.sync_global_devices(name)


def from_primary(value: bool) -> bool:
    """Return the primary host's value on every host, where all have to decide alike."""
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


@contextlib.contextmanager
def primary_first(name: str) -> Iterator[None]:
    """Run the block on the primary host before the others, which then find shared folders filled."""
    if not is_primary():
        barrier(name)
    try:
        yield
    finally:
        if is_primary():
            barrier(name)


@contextlib.contextmanager
def lock_folder(folder: storage.Path) -> Iterator[None]:
    """Hold the lock of a folder, on the primary host for all. Raises as `lock.lock_folder` does."""
    with lock.lock_folder(folder) if is_primary() else contextlib.nullcontext():
        yield
