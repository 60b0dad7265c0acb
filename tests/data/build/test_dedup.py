"""Signatures estimate the Jaccard similarity; the search by bands finds what comparing all pairs finds."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from embed.data.build.dedup import (
    NUM_HASHES,
    compute_signature,
    contains_near_duplicate,
    first_occurrence,
    jaccard_estimate,
    near_first_occurrence,
)
from embed.data.build.formats import encode_audio
from embed.data.modalities import Audio, Image, Text

rng = np.random.default_rng(0)


def of(*parts) -> np.ndarray:
    return compute_signature(parts)


def runs(words: str) -> set[str]:
    return {words[i : i + 5] for i in range(len(words) - 4)}


@pytest.mark.parametrize("changed", [0, 1, 5, 20, 60])
def test_texts_share_what_their_runs_share(changed):
    words = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(60)]
    other = [word if i >= changed else word[::-1] for i, word in enumerate(words)]
    a, b = " ".join(words), " ".join(other)
    exact = len(runs(a) & runs(b)) / len(runs(a) | runs(b))
    assert (
        abs(jaccard_estimate(of(Text(a)), of(Text("  " + b.upper()))) - exact)
        < 4 * (exact * (1 - exact) / NUM_HASHES) ** 0.5 + 0.01
    )


def picture(seed: int, side: int = 200, **options) -> Image:
    coarse = np.random.default_rng(seed).integers(256, size=(12, 12, 3), dtype=np.uint8)
    out = io.BytesIO()
    Pillow.fromarray(coarse).resize((side, side), Pillow.Resampling.BICUBIC).save(out, **options)
    return Image(out.getvalue())


def test_a_picture_saved_again_is_alike_and_another_is_not():
    png = of(picture(1, format="PNG"))
    assert jaccard_estimate(png, of(picture(1, format="JPEG", quality=90))) > 0.75
    assert jaccard_estimate(png, of(picture(1, 180, format="WEBP", quality=95))) > 0.6
    assert jaccard_estimate(png, of(picture(2, format="PNG"))) < 0.1
    assert jaccard_estimate(png, of(Text("a picture"))) < 0.1


def tune(seed: int, rate: int, gain: float = 1.0) -> Audio:
    pitches = np.random.default_rng(seed).integers(200, 2000, size=16)
    times = np.arange(4 * rate) / rate
    return encode_audio(0.5 * gain * np.sin(2 * np.pi * pitches[(times * 4).astype(int)] * times), rate)


def test_a_sound_at_another_rate_and_loudness_is_alike_and_another_is_not():
    assert jaccard_estimate(of(tune(1, 16_000)), of(tune(1, 16_000, gain=0.7))) > 0.7
    assert jaccard_estimate(of(tune(1, 16_000)), of(tune(2, 16_000))) < 0.3


def sets(n: int, sides: int) -> np.ndarray:
    """Signatures of families: some alike by much, some by little."""
    families = rng.integers(2**32, size=(n // 5, sides, NUM_HASHES), dtype=np.uint32)
    found = families[rng.integers(len(families), size=n)]
    noise = rng.random((n, sides, 1)) * 0.15
    return np.where(rng.random(found.shape) < noise, rng.integers(2**32, size=found.shape, dtype=np.uint32), found)


def test_bands_find_what_comparing_all_with_all_finds():
    records = sets(600, 2)
    exact = np.array(
        [not (jaccard_estimate(records[:i], records[i]).min(-1) >= 0.85).any() for i in range(len(records))]
    )
    found = near_first_occurrence(records, 0.85)
    assert (~exact).sum() > 50 and not (~found & exact).any() and (found & ~exact).sum() <= 0.03 * (~exact).sum()
    known, asked = sets(300, 1)[:, 0], sets(300, 1)[:, 0]
    known[:100] = np.where(rng.random((100, NUM_HASHES)) < 0.08, 7, asked[:100])
    exact = (jaccard_estimate(asked[:, None], known[None]) >= 0.85).any(axis=1)
    assert exact.sum() > 80 and np.array_equal(contains_near_duplicate(asked, known, 0.85), exact)


def test_firsts_of_equal_rows():
    assert first_occurrence(np.array([[1, 2], [3, 4], [1, 2], [1, 3], [3, 4]], np.uint32)).tolist() == [
        True,
        True,
        False,
        True,
        False,
    ]
