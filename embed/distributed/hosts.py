"""Many hosts run one program: who writes for all, who goes first, and where they wait for each other."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from embed.distributed import storage


def is_primary() -> bool:
    """Whether this host writes what all share: logs, tokenizers, results."""
    return jax.process_index() == 0


def barrier(what: str) -> None:
    """Returns when all hosts have come here: what each has written, the others can read. Alone there is no waiting."""
    multihost_utils.sync_global_devices(what)


def from_primary(value: bool) -> bool:
    """Return the primary host's value on every host, where all have to decide alike."""
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


@contextlib.contextmanager
def primary_first(what: str) -> Iterator[None]:
    """The first host does what is inside before the others, who then find it done where folders are shared."""
    if not is_primary():
        barrier(what)
    try:
        yield
    finally:
        if is_primary():
            barrier(what)


@contextlib.contextmanager
def lock_folder(folder: storage.Path) -> Iterator[None]:
    """`storage.lock_folder`, which the first host holds for all."""
    with storage.lock_folder(folder) if is_primary() else contextlib.nullcontext():
        yield
