"""Log-mel frames: as many as the sound has, of the reference's values, each of its own window alone."""

import numpy as np
import pytest

from embed.data.media.mel import MIN_SAMPLES, log_mel

NOISE = np.random.default_rng(0).normal(0, 0.1, 5000).astype(np.float32)


def tone(hertz: float, samples: int = 4000) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / 16_000).astype(np.float32)


def test_values_are_those_of_the_reference():
    """From Gemma4AudioFeatureExtractor(feature_size=8) of transformers."""
    n = np.arange(500)
    samples = (0.5 * np.sin(n / 7) + 0.25 * np.sin(n * n / 900)).astype(np.float32)
    expected = [
        [4.2307, 4.1676, 2.397, 1.5754, 1.0502, 0.658, 0.3805, 0.2524],
        [4.3305, 4.6074, 4.4701, 3.7916, 0.7109, -4.1797, -5.7638, -6.3886],
        [4.2751, 4.1157, 2.1938, 4.4442, 4.5507, 1.884, -4.4215, -6.1577],
    ]
    np.testing.assert_allclose(log_mel(samples, 8), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (160, 0), (161, 1), (320, 1), (321, 2), (4999, 31), (480_000, 2999)]
)
def test_a_sound_has_a_frame_every_ten_milliseconds(samples, frames):
    found = log_mel(np.zeros(samples, np.float32), 128)
    assert found.shape == (frames, 128) and found.dtype == np.float32
    assert frames == 0 or samples >= MIN_SAMPLES
    np.testing.assert_allclose(found, np.log(0.001), atol=1e-6)


def test_a_frame_hears_its_window_alone():
    whole = log_mel(NOISE, 32)
    # a matrix product of fewer rows may round otherwise, by the processor's kernel for it
    np.testing.assert_allclose(log_mel(NOISE[:1700], 32), whole[:10], atol=1e-5, rtol=0)
    changed = NOISE.copy()
    changed[1000] += 1
    differ = np.flatnonzero((log_mel(changed, 32) != whole).any(axis=1))
    assert differ.tolist() == [6, 7]  # centered on samples 960 and 1120, 160 on either side


def test_a_higher_tone_is_in_a_higher_bin():
    loudest = [int(log_mel(tone(hertz), 64)[5:20].mean(axis=0).argmax()) for hertz in (100, 440, 1000, 3000, 7000)]
    assert loudest == sorted(set(loudest))


def test_twice_as_loud_is_log_two_more():
    loud, quiet = log_mel(tone(440), 16), log_mel(tone(440) / 2, 16)
    heard = quiet.min(axis=0) > 0
    assert heard.any()
    np.testing.assert_allclose((loud - quiet)[:, heard], np.log(2), atol=1e-3)  # FLOOR's share is at most that
