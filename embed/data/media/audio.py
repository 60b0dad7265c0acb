"""Decode encoded audio to samples at 16 kHz, within the limits of Gemini Embedding 2's API."""

import io
import math
from collections.abc import Iterator

import av
import numpy as np
import soundfile
import soxr

from embed.data.media.containers import claimed_seconds, find_audio, open_container
from embed.data.media.errors import MediaError, as_media_error, check_bytes
from embed.data.media.wav import restate_sizes

SAMPLE_RATE = 16_000
MAX_PEAK = 4.0  # of samples in -1..1: MP3 and AAC overshoot by less; what is beyond 1 is clipped
MAX_SECONDS = 180  # of audio
ACCEPTED = "WAV, FLAC, MP3, Ogg, M4A or WebM"
AUDIO_SUFFIXES = frozenset(
    {
        ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".mpa",
        ".m4a", ".m4b", ".aac", ".aif", ".aiff", ".aifc", ".caf", ".au", ".snd", ".voc", ".wma", ".mka", ".weba",
        ".amr",
    }
)  # fmt: skip
ERRORS = (soundfile.SoundFileError, av.FFmpegError)
# libsndfile: unknown format, unknown encoding, WAV of AC-3 or such, FLAC in Ogg. The code is a global variable:
# 0 is left where another thread opened a file meanwhile (libsndfile#610).
UNKNOWN_TO_SOUNDFILE = (0, 1, 4, 64, 161)
MIN_MIX_POWER = 1e-3  # of the channels' mean relative to the channels; unrelated channels give 1 / channels


class _Memory(io.BytesIO):
    """Bytes for libsndfile: an impossible seek does nothing, where a file's exception would be printed."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:  # before the start
            return self.tell()


def decode_audio(data: bytes, cut: bool = False) -> np.ndarray:
    """Decode an audio file, or the soundtrack of a video, to f32[n]: mono, -1..1, 16 kHz.

    Raises MediaError, also where the channels cancel out, and above 180 s; with `cut`, longer audio gives its first
    180 s instead.
    """
    check_bytes("audio", data)
    with as_media_error("audio", ACCEPTED, ERRORS):
        samples, rate = _mix(data, cut)
    if not len(samples):
        raise MediaError("audio has no samples: the file is empty or cut short")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    if not len(samples):
        raise MediaError("audio is too short for one sample at 16 kHz")
    return np.clip(samples, -1, 1)


def _mix(data: bytes, cut: bool) -> tuple[np.ndarray, int]:
    """Average the channels to f32[n], and return the rate in Hz. Raises MediaError and the decoders' own errors."""
    mixed: list[np.ndarray] = [np.zeros(0, np.float32)]
    count, rate, power = 0, SAMPLE_RATE, 0.0
    with np.errstate(all="ignore"):  # floats that are not finite or too large to square
        for rate, channels in read_audio(restate_sizes(data), cut):
            room = MAX_SECONDS * rate - count
            if len(channels) > room and not cut:
                raise MediaError(f"audio is longer than {MAX_SECONDS} s: split it")
            mixed.append(channels[:room].mean(axis=1))
            count += len(mixed[-1])
            power += float(np.square(channels[:room], dtype=np.float64).sum()) / channels.shape[1]
            if len(channels) > room:
                break
    samples = np.concatenate(mixed)
    if not np.isfinite(samples).all():
        raise MediaError("audio has samples that are not finite: save it as integers")
    if (peak := float(np.abs(samples).max(initial=0))) > MAX_PEAK:
        raise MediaError(f"audio reaches {peak:,.6g}, outside -1..1: divide by full scale (32768 for 16 bits)")
    if float(np.square(samples, dtype=np.float64).sum()) < MIN_MIX_POWER * power:
        raise MediaError("the audio channels cancel out (opposite phase): give one of them, or mono")
    return samples, rate


def _check_header(rate: int, channels: int) -> None:
    if not 1000 <= rate <= 192_000 or not 1 <= channels <= 32:
        raise MediaError(f"audio claims {rate:,} Hz and {channels} channels: its header is wrong, save it again")


def read_audio(data: bytes, long: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (rate in Hz, f32[n,channels]) block by block: the length in the header is not trusted.

    Raises MediaError above 180 s, unless `long`.
    """
    if _is_mpeg(data):
        yield from read_audio_av(data)
        return
    try:
        file = soundfile.SoundFile(_Memory(data))
    except soundfile.LibsndfileError as error:
        if error.code not in UNKNOWN_TO_SOUNDFILE:
            raise MediaError(f"audio is malformed ({error.error_string}): save it again") from error
        yield from read_audio_av(data)
        return
    with file:
        _check_header(file.samplerate, file.channels)
        if file.frames > 2**62:  # a FLAC written to a pipe has no length, and libsndfile fails at its end
            yield from read_audio_av(data)
            return
        if file.frames > MAX_SECONDS * file.samplerate and not long:
            raise MediaError(
                f"audio of {file.frames / file.samplerate:,.0f} s is too long: at most {MAX_SECONDS} s; split it"
            )
        count = 0
        while len(block := file.read(65_536, dtype="float32", always_2d=True)):
            count += len(block)
            yield file.samplerate, block
        if file.frames - count > 0.1 * file.samplerate:  # Opus files often count a few samples too many
            raise MediaError(f"audio claims {file.frames:,} samples but has {count:,}: the file is truncated")


def _is_mpeg(data: bytes) -> bool:
    """Whether it begins as MP3, MP2 or AAC: libsndfile decodes these alike, but prints about broken ones."""
    return data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0")


def _has_frame_count(data: bytes) -> bool:
    """Whether an MP3's first frame states the number of frames; otherwise ffmpeg estimates its length."""
    start = 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(data[6:10])) if data[:3] == b"ID3" else 0
    return any(tag in data[start : start + 200] for tag in (b"Xing", b"Info", b"VBRI"))


def read_audio_av(data: bytes) -> Iterator[tuple[int, np.ndarray]]:
    """Yield blocks as `read_audio` does, for MP3 and what libsndfile does not know: AAC, WebM, videos, ..."""
    with open_container(data) as container:
        stream = find_audio(container)
        if stream is None:
            raise MediaError("no audio stream can be decoded: give audio, or a video with a soundtrack")
        _check_header(stream.rate or 0, stream.channels)
        stream.codec_context.thread_count = 1
        to_float = av.AudioResampler("fltp")
        seconds = 0.0
        first_format = None
        for frame in container.decode(stream):
            first_format = first_format or _frame_format(frame)
            if _frame_format(frame) != first_format:  # PyAV would raise a ValueError
                raise MediaError("the audio changes its rate or channels: save it with one of each")
            for block in to_float.resample(frame):
                seconds += block.samples / block.sample_rate
                yield block.sample_rate, block.to_ndarray().T
        is_exact = container.format.name == "mp3" and _has_frame_count(data)
        claimed = (
            float((stream.duration or 0) * (stream.time_base or 0)) if is_exact else claimed_seconds(container, stream)
        )
        if seconds < (claimed - 0.1 if is_exact else 0.9 * claimed - 0.5):
            raise MediaError(f"audio claims {claimed:.1f} s but has {seconds:.1f} s: the file is truncated")


def _frame_format(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def frame_audio(samples: np.ndarray, frame: int = 640) -> np.ndarray:
    """Cut f32[n] to f32[ceil(n / frame), frame], padded with zeros at its end; 640 samples are 40 ms."""
    count = math.ceil(len(samples) / frame)
    return np.pad(samples, (0, count * frame - len(samples))).reshape(count, frame)
