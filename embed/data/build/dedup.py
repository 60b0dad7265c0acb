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


def compute_signature(content: Content) -> np.ndarray:
    """Compute the MinHash of a content, u32[128]; the share of equal numbers in two estimates their Jaccard similarity.

    Raises MediaError where a part cannot be decoded.
    """
    shingles = [modality_of(part).shingles(value_of(part)) for part in content]
    elements = np.unique(np.concatenate([*shingles, np.zeros(1, np.uint64)]))
    smallest = np.full(NUM_HASHES, 2**32 - 1, np.uint32)
    for start in range(0, len(elements), 4096):
        mixed = elements[start : start + 4096, None] * FACTORS + SHIFTS
        smallest = np.minimum(smallest, (mixed >> np.uint64(32)).astype(np.uint32).min(axis=0))
    return smallest


def jaccard_estimate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Estimate the Jaccard similarity of signatures u32[...,128] -> f64[...]."""
    return (a == b).mean(axis=-1)


def first_occurrence(hashes: np.ndarray) -> np.ndarray:
    """Mark the rows of integers [n,k] that equal no earlier row: bool[n]."""
    _, first = np.unique(np.ascontiguousarray(hashes), axis=0, return_index=True)
    is_first = np.zeros(len(hashes), bool)
    is_first[first] = True
    return is_first


def near_first_occurrence(signatures: np.ndarray, min_similarity: float) -> np.ndarray:
    """Mark the records that are no near duplicate of an earlier one: bool[n].

    signatures: u32[n,s,128], of the s sides of each record. Records are near duplicates if the estimated similarity of
    every side is at least `min_similarity`. One band is in memory at a time, so `signatures` may be a memory map.
    """
    is_first = np.ones(len(signatures), bool)
    for band in range(BANDS):
        keys = _band_keys(signatures, band)
        order = np.argsort(keys, kind="stable")
        bounds = np.append(np.flatnonzero(np.diff(keys[order], prepend=keys[order[:1]] + np.uint64(1))), len(order))
        for n in np.flatnonzero(np.diff(bounds) > 1):
            rest = order[bounds[n] : bounds[n + 1]]  # records with an equal band
            while len(rest) > 1:
                first, rest = rest[0], rest[1:]
                is_near = np.concatenate(
                    [
                        jaccard_estimate(signatures[rest[i : i + CHUNK]], signatures[first]).min(axis=-1)
                        >= min_similarity
                        for i in range(0, len(rest), CHUNK)
                    ]
                )
                is_first[rest[is_near]] = False
                rest = rest[~is_near]
    return is_first


def contains_near_duplicate(signatures: np.ndarray, known: np.ndarray, min_similarity: float) -> np.ndarray:
    """Mark the contents, signatures u32[n,128], whose similarity to one of u32[m,128] is at least `min_similarity`:
    bool[n]."""
    is_duplicate = np.zeros(len(signatures), bool)
    for band in range(BANDS):
        keys = _band_keys(known[:, None], band)
        order = np.argsort(keys)
        for start in range(0, len(signatures), CHUNK):
            part = signatures[start : start + CHUNK]
            part_keys = _band_keys(part[:, None], band)
            left = np.searchsorted(keys[order], part_keys, "left")
            right = np.searchsorted(keys[order], part_keys, "right")
            for i in np.flatnonzero((right > left) & ~is_duplicate[start : start + CHUNK]):
                similarity = jaccard_estimate(known[order[left[i] : right[i]]], part[i])
                is_duplicate[start + i] = similarity.max() >= min_similarity
    return is_duplicate


def _band_keys(signatures: np.ndarray, band: int) -> np.ndarray:
    """Hash one band of every side of signatures u32[n,s,128] -> u64[n]."""
    width = NUM_HASHES // BANDS
    keys = np.zeros(len(signatures), np.uint64)
    for start in range(0, len(signatures), CHUNK):
        columns = signatures[start : start + CHUNK, :, band * width : (band + 1) * width].astype(np.uint64)
        for column in columns.reshape(len(columns), -1).T:
            keys[start : start + CHUNK] = splitmix64(keys[start : start + CHUNK] ^ column)
    return keys
