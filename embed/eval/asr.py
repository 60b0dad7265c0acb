"""What a cascade of speech recognition and text embedding needs beside the encoder: a recogniser, and noise to try it.

The recogniser is PocketSphinx with the American English model that comes with it (the extra [eval]).
"""

import functools
import io

import numpy as np
import soundfile

from embed.data.media.decode import SAMPLE_RATE, decode_audio


def transcribe(data: bytes) -> str:
    """The words that are heard in an encoded sound of English speech, in lower case; "" where none are.

    Raises MediaError for what is no sound, ModuleNotFoundError where PocketSphinx is not installed.
    """
    decoder = _decoder()
    samples = np.clip(decode_audio(data), -1, 1)
    decoder.start_utt()
    decoder.process_raw((32767 * samples).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return found.hypstr if found else ""


@functools.cache
def _decoder():
    import pocketsphinx

    return pocketsphinx.Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")


def with_noise(data: bytes, ratio: float, seed: int) -> bytes:
    """An encoded sound with white noise of so many decibels below its own mean power, as a WAV file of 16 kHz floats.

    Silence stays silence. Raises MediaError for what is no sound.
    """
    samples = decode_audio(data)
    noise = np.random.default_rng(seed).normal(size=len(samples))
    scale = np.sqrt(np.mean(np.square(samples, dtype=np.float64)) / 10 ** (ratio / 10))
    out = io.BytesIO()
    soundfile.write(out, (samples + scale * noise).astype(np.float32), SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return out.getvalue()
