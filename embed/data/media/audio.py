"""Encoded sound -> samples at 16 kHz, within the report's limits; a clear error for what cannot be decoded."""

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
LOUDEST = 4.0  # of a sound in -1..1: decoders of MP3 and AAC overshoot by less, and what is beyond 1 is clipped
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
UNKNOWN_TO_SOUNDFILE = (1, 4, 64, 161)  # libsndfile: unknown format, unknown encoding, WAV of AC-3 or such, FLAC in Ogg
OPPOSED = 1e-3  # power of the channels' mean over the mean of their powers; unlike channels alone give 1 / channels


class _Memory(io.BytesIO):
    """Bytes as libsndfile reads them: where a file would refuse to seek, it stays, and no exception is printed."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:  # before the start
            return self.tell()


def decode_audio(data: bytes, cut: bool = False) -> np.ndarray:
    """An encoded sound, or a video's -> f32[n], mono, -1..1 at 16 kHz.

    Raises MediaError, also where the channels cancel out, and above 180 s, unless `cut`: then the first 180 s
    are taken.
    """
    check_bytes("audio", data)
    with as_media_error("audio", ACCEPTED, ERRORS):
        samples, rate = _mix(data, cut)
    if not len(samples):
        raise MediaError("a sound without samples")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    if not len(samples):
        raise MediaError("a sound too short for a sample at 16 kHz")
    return np.clip(samples, -1, 1)


def _mix(data: bytes, cut: bool) -> tuple[np.ndarray, int]:
    """The mean of a sound's channels, f32[n], and its rate in Hz. Raises MediaError and the decoders' own errors."""
    mixed: list[np.ndarray] = [np.zeros(0, np.float32)]
    count, rate, power = 0, SAMPLE_RATE, 0.0
    with np.errstate(all="ignore"):  # of floats that are not finite, or too large to square
        for rate, channels in read_audio(restate_sizes(data), cut):
            room = MAX_SECONDS * rate - count
            if len(channels) > room and not cut:
                raise MediaError(f"a sound longer than {MAX_SECONDS} s: cut it into pieces")
            mixed.append(channels[:room].mean(axis=1))
            count += len(mixed[-1])
            power += float(np.square(channels[:room], dtype=np.float64).sum()) / channels.shape[1]
            if len(channels) > room:
                break
    samples = np.concatenate(mixed)
    if not np.isfinite(samples).all():
        raise MediaError("a sound with samples that are not finite: save it again as integers")
    if (peak := float(np.abs(samples).max(initial=0))) > LOUDEST:
        raise MediaError(
            f"a sound is in -1..1; this one goes up to {peak:,.6g}: divide by full scale, 16 bits by 32768"
        )
    if float(np.square(samples, dtype=np.float64).sum()) < OPPOSED * power:
        raise MediaError("a sound whose channels cancel out (one is the other upside down): give one of them, or mono")
    return samples, rate


def _check_sound(rate: int, channels: int) -> None:
    if not 1000 <= rate <= 192_000 or not 1 <= channels <= 32:
        raise MediaError(f"a sound that claims {rate:,} Hz and {channels} channels: its header is wrong, save it again")


def read_audio(data: bytes, long: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (rate in Hz, f32[n,channels]), a little at a time: the header's length is not trusted.

    Raises MediaError above 180 s, unless it may be `long`.
    """
    if _is_mpeg(data):
        yield from read_audio_av(data)
        return
    try:
        file = soundfile.SoundFile(_Memory(data))
    except soundfile.LibsndfileError as error:
        if error.code not in UNKNOWN_TO_SOUNDFILE:
            raise MediaError(f"a sound that is malformed ({error.error_string}): save it again") from error
        yield from read_audio_av(data)
        return
    with file:
        _check_sound(file.samplerate, file.channels)
        if file.frames > 2**62:  # a FLAC written to a pipe does not know its length, and libsndfile stumbles at its end
            yield from read_audio_av(data)
            return
        if file.frames > MAX_SECONDS * file.samplerate and not long:
            raise MediaError(f"a sound of {file.frames / file.samplerate:,.0f} s; at most {MAX_SECONDS} s: cut it")
        count = 0
        while len(block := file.read(65_536, dtype="float32", always_2d=True)):
            count += len(block)
            yield file.samplerate, block
        if file.frames - count > 0.1 * file.samplerate:  # Opus files often count a few samples that are not there
            raise MediaError(f"a sound that claims {file.frames:,} samples and has {count:,}: it is cut short")


def _is_mpeg(data: bytes) -> bool:
    """Whether it begins as MP3, MP2 or AAC does: libsndfile gives the same samples, but prints of broken ones."""
    return data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0")


def _has_frame_count(data: bytes) -> bool:
    """Whether an MP3's first frame states how many there are; ffmpeg estimates the length of one that does not."""
    start = 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(data[6:10])) if data[:3] == b"ID3" else 0
    return any(tag in data[start : start + 200] for tag in (b"Xing", b"Info", b"VBRI"))


def read_audio_av(data: bytes) -> Iterator[tuple[int, np.ndarray]]:
    """Like `read_audio`, for MP3 and what libsndfile does not know: AAC, Opus in WebM, the sound of a video, ..."""
    with open_container(data) as container:
        stream = find_audio(container)
        if stream is None:
            raise MediaError("a file without sound that can be decoded: give audio, or a video with sound")
        _check_sound(stream.rate or 0, stream.channels)
        stream.codec_context.thread_count = 1
        to_float = av.AudioResampler("fltp")
        seconds = 0.0
        form = None
        for frame in container.decode(stream):
            form = form or _form(frame)
            if _form(frame) != form:  # else a ValueError of PyAV's
                raise MediaError("a sound whose rate or channels change: save it again with one of each")
            for part in to_float.resample(frame):
                seconds += part.samples / part.sample_rate
                yield part.sample_rate, part.to_ndarray().T
        exact = container.format.name == "mp3" and _has_frame_count(data)
        claimed = (
            float((stream.duration or 0) * (stream.time_base or 0)) if exact else claimed_seconds(container, stream)
        )
        if seconds < (claimed - 0.1 if exact else 0.9 * claimed - 0.5):
            raise MediaError(f"a sound that claims {claimed:.1f} s and has {seconds:.1f} s: it is cut short")


def _form(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def frame_audio(samples: np.ndarray, frame: int = 640) -> np.ndarray:
    """f32[n] -> f32[ceil(n / frame), frame], the last frame filled up with zeros; 640 samples are 40 ms."""
    count = math.ceil(len(samples) / frame)
    return np.pad(samples, (0, count * frame - len(samples))).reshape(count, frame)
