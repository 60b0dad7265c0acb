"""Near-duplicate search: contents that are equal, by their hash, or nearly equal, by MinHash over their shingles.

The Jaccard similarity of two sets of shingles (embed/data/shingles.py) is estimated from 128 numbers of each.
"""

import numpy as np

from embed.data.modalities import Content, modality_of, value_of
from embed.data.shingles import splitmix64

NUM_HASHES = 128  # of a signature: an estimate's standard deviation is 0.03 at 0.9
BANDS = 32  # of four numbers; two contents are compared where a band of theirs is equal
CHUNK = 2**16  # signatures that are compared together
_rng = np.random.default_rng(0)
FACTORS = _rng.integers(2**63, size=NUM_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
SHIFTS = _rng.integers(2**63, size=NUM_HASHES, dtype=np.uint64)


def decode_parts(content: Content) -> None:
    """Decode every part. Raises MediaError where one cannot be."""
    for part in content:
        modality_of(part).decode(value_of(part))


def signature(content: Content) -> np.ndarray:
    """MinHash of a content, u32[128]: the share of equal numbers of two estimates their Jaccard similarity.

    Raises MediaError where a part cannot be decoded.
    """
    shingles = [modality_of(part).shingles(value_of(part)) for part in content]
    elements = np.unique(np.concatenate([*shingles, np.zeros(1, np.uint64)]))
    smallest = np.full(NUM_HASHES, 2**32 - 1, np.uint32)
    for start in range(0, len(elements), 4096):
        mixed = elements[start : start + 4096, None] * FACTORS + SHIFTS
        smallest = np.minimum(smallest, (mixed >> np.uint64(32)).astype(np.uint32).min(axis=0))
    return smallest


def jaccard_estimate(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The estimated share in common of signatures u32[...,128]: f64[...]."""
    return (one == other).mean(axis=-1)


def first_occurrence(hashes: np.ndarray) -> np.ndarray:
    """Which rows of integers [n,k] have no equal row before them: bool[n]."""
    _, first = np.unique(np.ascontiguousarray(hashes), axis=0, return_index=True)
    found = np.zeros(len(hashes), bool)
    found[first] = True
    return found


def near_first_occurrence(signatures: np.ndarray, least: float) -> np.ndarray:
    """Which records, of signatures u32[n,s,128] of their s sides, have none before them that is alike by `least` or
    more on every side: bool[n].

    Only a band at a time is in memory, so that `signatures` may be a file.
    """
    found = np.ones(len(signatures), bool)
    for band in range(BANDS):
        keys = _band(signatures, band)
        order = np.argsort(keys, kind="stable")
        bounds = np.append(np.flatnonzero(np.diff(keys[order], prepend=keys[order[:1]] + np.uint64(1))), len(order))
        for n in np.flatnonzero(np.diff(bounds) > 1):
            rest = order[bounds[n] : bounds[n + 1]]
            while len(rest) > 1:
                first, rest = rest[0], rest[1:]
                same = np.concatenate(
                    [
                        jaccard_estimate(signatures[rest[i : i + CHUNK]], signatures[first]).min(axis=-1) >= least
                        for i in range(0, len(rest), CHUNK)
                    ]
                )
                found[rest[same]] = False
                rest = rest[~same]
    return found


def contains_near_duplicate(signatures: np.ndarray, known: np.ndarray, least: float) -> np.ndarray:
    """Which contents, of signatures u32[n,128], are alike by `least` or more to one of u32[m,128]: bool[n]."""
    found = np.zeros(len(signatures), bool)
    for band in range(BANDS):
        keys = _band(known[:, None], band)
        order = np.argsort(keys)
        for start in range(0, len(signatures), CHUNK):
            part = signatures[start : start + CHUNK]
            left, right = (np.searchsorted(keys[order], _band(part[:, None], band), side) for side in ("left", "right"))
            for i in np.flatnonzero((right > left) & ~found[start : start + CHUNK]):
                found[start + i] = jaccard_estimate(known[order[left[i] : right[i]]], part[i]).max() >= least
    return found


def _band(signatures: np.ndarray, band: int) -> np.ndarray:
    """u64[n], the numbers of a band of every side in one."""
    width = NUM_HASHES // BANDS
    keys = np.zeros(len(signatures), np.uint64)
    for start in range(0, len(signatures), CHUNK):
        own = signatures[start : start + CHUNK, :, band * width : (band + 1) * width].astype(np.uint64)
        for column in own.reshape(len(own), -1).T:
            keys[start : start + CHUNK] = splitmix64(keys[start : start + CHUNK] ^ column)
    return keys
