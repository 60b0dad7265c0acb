"""Waveform -> log-mel frames, as the Gemma 4 audio tower was trained with."""

import functools

import numpy as np

from embed.data.media.decode import SAMPLE_RATE

HOP = 160  # samples between frames, 10 ms
WINDOW = 320  # samples of a frame, 20 ms
FFT = 512
MAX_FREQUENCY = 8000.0  # Hz
FLOOR = 1e-3  # added before the logarithm
MIN_SAMPLES = HOP + 1  # samples that give a frame


def log_mel(samples: np.ndarray, bins: int) -> np.ndarray:
    """f32[n] at 16 kHz -> f32[t, bins], a frame every 10 ms; none below MIN_SAMPLES samples.

    Frame i is centered on sample 160·i: half a window of silence precedes the audio, none follows it. There is a
    frame where its window and one sample more end within the audio: t = floor((n - 161) / 160) + 1.
    """
    count = max((len(samples) - MIN_SAMPLES) // HOP + 1, 0)
    if not count:
        return np.zeros((0, bins), np.float32)
    padded = np.pad(samples.astype(np.float32), (WINDOW // 2, 0))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: count * HOP : HOP]
    # In float32 by numpy, as the reference: beside a loud tone, the rounding left in empty bins shows above FLOOR.
    # scipy's transform takes a third of the time but rounds differently.
    spectrum = np.abs(np.fft.rfft(frames * _hann(), FFT))
    return np.log(spectrum @ _filters(bins) + np.float32(FLOOR))


@functools.cache
def _hann() -> np.ndarray:
    """A period of the window, f32[320]: symmetric about sample 160."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


@functools.cache
def _filters(bins: int) -> np.ndarray:
    """f32[257, bins]: the weight of every frequency in a bin. Triangles of height 1 whose corners are even in mels."""
    top = 2595 * np.log10(1 + MAX_FREQUENCY / 700)
    corners = 700 * (10 ** (np.linspace(0, top, bins + 2) / 2595) - 1)
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    at = np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)[:, None]
    triangles = np.minimum((at - low) / (centre - low), (high - at) / (high - centre))
    return np.maximum(triangles, 0).astype(np.float32)
