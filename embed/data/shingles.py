"""Content as a set of hashes (shingles), so that near duplicates share most of them.

A text is made of its runs of five characters, whatever its case and spaces; an image of its cells of 1/48 that differ
from its background; a video or a PDF of those of some frames or pages; audio of its spectrum by quarter seconds.
"""

import math
import unicodedata

import numpy as np
from PIL import Image as Pillow

from embed.data.media.audio import SAMPLE_RATE

SHINGLE_CHARACTERS = 5
GRID = 48  # cells in a row and in a column of an image
COLOR_LEVELS = 8  # of each channel of a cell
MAX_IMAGES = 4  # frames of a video or pages of a PDF that are compared
WINDOW = SAMPLE_RATE // 4
BANDS = 24  # of a spectrum


def shingle_text(text: str) -> np.ndarray:
    """Hash every run of five characters: u64[n]."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    padded = plain.ljust(SHINGLE_CHARACTERS).encode("utf-32-le", "surrogatepass")
    characters = np.frombuffer(padded, np.uint32).astype(np.uint64)
    count = len(characters) - SHINGLE_CHARACTERS + 1
    hashes = np.full(count, 1, np.uint64)
    for i in range(SHINGLE_CHARACTERS):
        hashes = hashes * np.uint64(1_000_003) + characters[i : count + i]
    return splitmix64(hashes)


def shingle_images(images: list[np.ndarray]) -> np.ndarray:
    """Hash the cells of evenly spaced images u8[h,w,3], at most four: u64[n]."""
    chosen = images[:: math.ceil(len(images) / MAX_IMAGES)]
    return np.concatenate([_color_cells(image, number) for number, image in enumerate(chosen)])


def _color_cells(pixels: np.ndarray, number: int) -> np.ndarray:
    """Hash where each cell of an image is and its color, unless that is the most common one: u64[n]."""
    small = np.asarray(Pillow.fromarray(pixels).resize((GRID, GRID), Pillow.Resampling.BOX))
    levels = (small.astype(np.uint64) * COLOR_LEVELS) >> np.uint64(8)
    weights = np.array([COLOR_LEVELS**2, COLOR_LEVELS, 1], np.uint64)
    colors = (levels * weights).sum(axis=-1, dtype=np.uint64).reshape(-1)
    distinct, counts = np.unique(colors, return_counts=True)
    background = distinct[np.argmax(counts)]
    position = np.arange(GRID**2, dtype=np.uint64) + np.uint64((1 + number) * GRID**2)
    cells = (position * np.uint64(COLOR_LEVELS**3) + colors)[colors != background]
    return splitmix64(np.append(cells, np.uint64(2**40) + background))


def shingle_audio(samples: np.ndarray) -> np.ndarray:
    """Hash the levels of f32[n] by window and band, in steps of 6 dB, down to 48 dB below the loudest: u64[n]."""
    count = math.ceil(len(samples) / WINDOW)
    windows = np.pad(samples, (0, count * WINDOW - len(samples))).reshape(count, WINDOW)
    power = np.abs(np.fft.rfft(windows))[:, 1:] ** 2
    edges = np.geomspace(8, power.shape[1], BANDS + 1).astype(int)
    level = 10 * np.log10(np.add.reduceat(power, edges[:-1], axis=1) + 1e-12)
    steps = np.floor((level - level.max() + 48) / 6)
    position = np.arange(steps.size, dtype=np.uint64).reshape(steps.shape) * np.uint64(16) + np.uint64(2**50)
    return splitmix64((position + np.maximum(steps, 0).astype(np.uint64))[steps >= 0])


def splitmix64(numbers: np.ndarray) -> np.ndarray:
    """Mix u64[n] so that near numbers become far ones (Steele et al. 2014, SplitMix)."""
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
