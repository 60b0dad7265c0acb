"""Which split a thing falls in: a stable hash of its name decides, so nothing moves when a corpus grows."""

import hashlib
from collections.abc import Iterable

SPLITS = ("train", "dev", "test")


def stable_hash(name: str) -> int:
    """A 64-bit number that is the same in every process and on every machine, unlike `hash`."""
    return int.from_bytes(hashlib.md5(name.encode(), usedforsecurity=False).digest()[:8], "big")


def assign_split(name: str, dev: float, test: float) -> str:
    """The split of one name, where about a share `dev` and a share `test` of all names are held out."""
    place = stable_hash(name) / 2**64
    return "test" if place < test else "dev" if place < test + dev else "train"


def assign_splits(names: Iterable[str], dev: int, test: int) -> dict[str, str]:
    """name -> split, where exactly `dev` and `test` of the names are held out; in an order shuffled by the hash."""
    ranked = sorted(names, key=stable_hash)
    return {name: "test" if i < test else "dev" if i < test + dev else "train" for i, name in enumerate(ranked)}
