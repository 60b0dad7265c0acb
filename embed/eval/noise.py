"""Noise to test speech recognition and audio encoders with."""

import io

import numpy as np
import soundfile

from embed.data.media.decode import SAMPLE_RATE, decode_audio


def with_noise(data: bytes, ratio: float, seed: int) -> bytes:
    """Add white noise to encoded audio at a signal-to-noise ratio in decibels; returns a WAV file of 16 kHz floats.

    Silence stays silence. Raises MediaError for anything but audio.
    """
    samples = decode_audio(data)
    noise = np.random.default_rng(seed).normal(size=len(samples))
    scale = np.sqrt(np.mean(np.square(samples, dtype=np.float64)) / 10 ** (ratio / 10))
    out = io.BytesIO()
    soundfile.write(out, (samples + scale * noise).astype(np.float32), SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return out.getvalue()
