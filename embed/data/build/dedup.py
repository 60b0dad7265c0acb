"""Which contents say the same: exactly, by their hash, or nearly, by MinHash over what they are made of.

A text is made of its runs of five characters, whatever its case and spaces; a picture of its cells of 1/48 that differ
from its background, a video or a PDF of those of some frames or pages, a sound of its spectrum by quarter seconds. The
share of what two contents are made of together that both have (Jaccard's) is estimated from 128 numbers of each.
"""

import math
import unicodedata

import numpy as np
from PIL import Image as Pillow

from embed.data.media import decode
from embed.data.media.pdf import render_pdf
from embed.data.preprocess import MAX_FRAMES
from embed.data.records import Audio, Content, Image, Part, Pdf, Text, Video

NUM_HASHES = 128  # of a signature: an estimate's standard deviation is 0.03 at 0.9
BANDS = 32  # of four numbers; two contents are compared where a band of theirs is equal
SHINGLE = 5  # characters
CELLS = 48
LEVELS = 8  # of a cell's colour
PICTURES = 4  # of a video or a PDF
WINDOW = decode.SAMPLE_RATE // 4
TONES = 24  # bands of a spectrum
CHUNK = 2**16  # signatures that are compared together
_rng = np.random.default_rng(0)
FACTORS = _rng.integers(2**63, size=NUM_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
SHIFTS = _rng.integers(2**63, size=NUM_HASHES, dtype=np.uint64)


Decoded = str | np.ndarray | list[np.ndarray]  # a text, samples f32[n] at 16 kHz, pictures u8[h,w,3]


def decode_parts(content: Content) -> list[Decoded]:
    """Every part as what it is made of. Raises media.MediaError."""
    return [_decode_part(part) for part in content]


def _decode_part(part: Part) -> Decoded:
    match part:
        case Text(text):
            return text
        case Image(data):
            return [decode.decode_image(data)]
        case Audio(data):
            return decode.decode_audio(data)
        case Video(data):
            return list(decode.decode_video(data, MAX_FRAMES)[0])
        case Pdf(data):
            return render_pdf(data, longest=768)


def signature(parts: list[Decoded]) -> np.ndarray:
    """u32[128]; of two contents about the share of equal numbers is the share of what they have in common."""
    made_of = np.unique(np.concatenate([*map(_elements, parts), np.zeros(1, np.uint64)]))
    smallest = np.full(NUM_HASHES, 2**32 - 1, np.uint32)
    for start in range(0, len(made_of), 4096):
        mixed = made_of[start : start + 4096, None] * FACTORS + SHIFTS
        smallest = np.minimum(smallest, (mixed >> np.uint64(32)).astype(np.uint32).min(axis=0))
    return smallest


def _elements(part: Decoded) -> np.ndarray:
    """u64[n], a number for each thing that a part is made of."""
    match part:
        case str():
            return _shingles(part)
        case list():
            chosen = part[:: math.ceil(len(part) / PICTURES)]
            return np.concatenate([_color_cells(picture, i) for i, picture in enumerate(chosen)])
        case _:
            return _spectrum(part)


def _shingles(text: str) -> np.ndarray:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    letters = np.frombuffer(plain.ljust(SHINGLE).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    found = np.full(len(letters) - SHINGLE + 1, 1, np.uint64)
    for i in range(SHINGLE):
        found = found * np.uint64(1_000_003) + letters[i : len(letters) - SHINGLE + 1 + i]
    return _splitmix64(found)


def _color_cells(pixels: np.ndarray, number: int) -> np.ndarray:
    """Of a picture u8[h,w,3]: where a cell is and its colour, of those that are not of the commonest one."""
    small = np.asarray(Pillow.fromarray(pixels).resize((CELLS, CELLS), Pillow.Resampling.BOX))
    levels = (small.astype(np.uint64) * LEVELS) >> np.uint64(8)
    colours = (levels * np.array([LEVELS**2, LEVELS, 1], np.uint64)).sum(axis=-1, dtype=np.uint64).reshape(-1)
    kinds, counts = np.unique(colours, return_counts=True)
    place = np.arange(CELLS**2, dtype=np.uint64) + np.uint64((1 + number) * CELLS**2)
    marked = (place * np.uint64(LEVELS**3) + colours)[colours != kinds[np.argmax(counts)]]
    return _splitmix64(np.append(marked, np.uint64(2**40) + kinds[np.argmax(counts)]))


def _spectrum(samples: np.ndarray) -> np.ndarray:
    """Of f32[n]: by window and band, the level in steps of 6 dB below the loudest, of those above -48 dB."""
    count = math.ceil(len(samples) / WINDOW)
    windows = np.pad(samples, (0, count * WINDOW - len(samples))).reshape(count, WINDOW)
    power = np.abs(np.fft.rfft(windows))[:, 1:] ** 2
    edges = np.geomspace(8, power.shape[1], TONES + 1).astype(int)
    level = 10 * np.log10(np.add.reduceat(power, edges[:-1], axis=1) + 1e-12)
    steps = np.floor((level - level.max() + 48) / 6)
    at = np.arange(steps.size, dtype=np.uint64).reshape(steps.shape) * np.uint64(16) + np.uint64(2**50)
    return _splitmix64((at + np.maximum(steps, 0).astype(np.uint64))[steps >= 0])


def _splitmix64(numbers: np.ndarray) -> np.ndarray:
    """u64[n] spread over all bits (splitmix64): near numbers become far ones."""
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


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
            keys[start : start + CHUNK] = _splitmix64(keys[start : start + CHUNK] ^ column)
    return keys
