"""For a cascade of speech recognition and text embedding: a recognizer, and noise to test it with.

The recognizer is PocketSphinx with the American English model that comes with it (extra [eval]).
"""

import functools
import io

import numpy as np
import soundfile

from embed.data.media.decode import SAMPLE_RATE, decode_audio


def transcribe(data: bytes) -> str:
    """Transcribe encoded audio of English speech, in lower case; "" where no word is recognized.

    Raises MediaError for anything but audio, ModuleNotFoundError without PocketSphinx.
    """
    decoder = _decoder()
    samples = np.clip(decode_audio(data), -1, 1)
    decoder.start_utt()
    decoder.process_raw((32767 * samples).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


@functools.cache
def _decoder():
    import pocketsphinx

    return pocketsphinx.Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")


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
