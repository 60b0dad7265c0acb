"""Splits by a stable hash of the name: no item changes its split when a corpus grows."""

import hashlib
from collections.abc import Iterable

SPLITS = ("train", "dev", "test")


def stable_hash(name: str) -> int:
    """Hash a name to 64 bits, equal in every process and on every machine, unlike `hash`."""
    return int.from_bytes(hashlib.md5(name.encode(), usedforsecurity=False).digest()[:8], "big")


def assign_split(name: str, dev: float, test: float) -> str:
    """Assign a name to a split; about a share `dev` and a share `test` of all names are held out."""
    quantile = stable_hash(name) / 2**64
    return "test" if quantile < test else "dev" if quantile < test + dev else "train"


def assign_splits(names: Iterable[str], dev: int, test: int) -> dict[str, str]:
    """Map every name to a split; exactly `dev` and `test` names are held out. The dict is in the order of the hash."""
    ranked = sorted(names, key=stable_hash)
    return {name: "test" if i < test else "dev" if i < test + dev else "train" for i, name in enumerate(ranked)}
