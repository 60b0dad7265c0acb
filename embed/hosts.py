"""Many hosts run one program: who writes for all, and who goes first."""

import contextlib
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


def leads() -> bool:
    """Whether this host writes what all share: logs, tokenizers, results."""
    return jax.process_index() == 0


@contextlib.contextmanager
def leader_first(what: str) -> Iterator[None]:
    """The first host does what is inside before the others, who then find it done where folders are shared."""
    if not leads():
        multihost_utils.sync_global_devices(what)
    try:
        yield
    finally:
        if leads():
            multihost_utils.sync_global_devices(what)
