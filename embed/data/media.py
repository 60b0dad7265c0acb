"""Encoded media -> pixels and samples, within the report's limits; a clear error for what cannot be decoded.

Nothing is allocated by what a header claims before the claim is checked.
"""

import io
import math
import threading
import warnings

import av
import numpy as np
import pypdfium2
import soundfile
import soxr
from PIL import Image as Pillow
from PIL import ImageOps

SAMPLE_RATE = 16_000
MAX_PIXELS = 64_000_000
MAX_SECONDS = 180  # of audio
MAX_PAGES = 6
MAX_VIDEO_SECONDS = 2 * 3600  # longer files are refused rather than decoded for minutes
PDF = threading.Lock()  # pdfium is not thread-safe


class MediaError(ValueError):
    """Media that cannot be decoded; the message says why and what to do."""


def decode_image(data: bytes) -> np.ndarray:
    """An encoded image -> u8[h,w,3] RGB, upright, transparency over white; of an animation, the first frame."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no news; bombs are caught by size below
            image = Pillow.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                raise MediaError(
                    f"an image of {image.width}x{image.height} pixels; at most {MAX_PIXELS:,}: scale it down"
                )
            image.load()
            image = ImageOps.exif_transpose(image)
    except MediaError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly every type on malformed files
        raise MediaError(f"not a whole, known image ({len(data):,} bytes): {error}") from error
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float32)
        top = 65535 if values.max(initial=0) > 255 else 255
        return np.repeat(np.clip(values * (255 / top), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Pillow.alpha_composite(Pillow.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("RGB"))


def decode_audio(data: bytes) -> np.ndarray:
    """An encoded sound -> f32[n] mono samples in -1..1 at 16 kHz; at most 180 s."""
    try:
        samples, rate = _soundfile(data)
    except MediaError:
        raise
    except Exception:
        samples, rate = _av_audio(data)  # what libsndfile does not know: AAC, Opus in MP4 or WebM, ...
    if not samples.size:
        raise MediaError("a sound without samples")
    if not np.isfinite(samples).all():
        raise MediaError("a sound with samples that are not finite")
    mono = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    return np.clip(mono, -1, 1).astype(np.float32)


def _check_sound(rate: float, channels: int, seconds: float) -> None:
    if not 1000 <= rate <= 768_000 or not 1 <= channels <= 64:
        raise MediaError(f"a sound that claims {rate:g} Hz and {channels} channels; its header is wrong")
    if seconds > MAX_SECONDS:
        raise MediaError(f"a sound of {seconds:.0f} s; at most {MAX_SECONDS} s: cut it")


def _soundfile(data: bytes) -> tuple[np.ndarray, int]:
    if data[:4] == b"RIFF":
        at = data.find(b"data", 12)
        claimed = int.from_bytes(data[at + 4 : at + 8], "little") if at > 0 else 0
        if claimed > len(data) - at - 8 + 1:
            raise MediaError(f"a WAV whose header claims {claimed:,} bytes of sound and has {len(data) - at - 8:,}")
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        _check_sound(file.samplerate, file.channels, 0)
        most = MAX_SECONDS * file.samplerate + 1
        samples = file.read(most, dtype="float32", always_2d=True)
        _check_sound(file.samplerate, file.channels, (len(samples) - 1) / file.samplerate)
        return samples, file.samplerate


def _av_audio(data: bytes) -> tuple[np.ndarray, int]:
    try:
        with av.open(io.BytesIO(data)) as container:
            if not container.streams.audio:
                raise MediaError("a file without sound")
            stream = container.streams.audio[0]
            _check_sound(stream.rate, stream.channels, 0)
            resampler = av.AudioResampler("fltp", rate=stream.rate)
            chunks, count = [], 0
            for frame in container.decode(stream):
                for out in resampler.resample(frame):
                    chunks.append(out.to_ndarray().T)
                    count += len(chunks[-1])
                _check_sound(stream.rate, stream.channels, count / stream.rate)
            return np.concatenate(chunks) if chunks else np.zeros((0, 1), np.float32), stream.rate
    except (av.FFmpegError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"not a whole, known sound ({len(data):,} bytes): {error}") from error


def frame_audio(samples: np.ndarray, frame: int) -> np.ndarray:
    """f32[n] -> f32[ceil(n/frame), frame], the last frame filled up with zeros."""
    count = math.ceil(len(samples) / frame)
    return np.pad(samples, (0, count * frame - len(samples))).reshape(count, frame)


def decode_video(data: bytes, max_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """An encoded video -> (u8[i,h,w,3] frames, f32[i] their times in s): one a second from 0, or `max_frames` evenly
    spaced where it is longer. The sound track is not read."""
    try:
        with av.open(io.BytesIO(data)) as container:
            if not container.streams.video:
                raise MediaError("a video without frames: the file has no video stream")
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise MediaError(f"a video of {stream.width}x{stream.height} pixels; at most {MAX_PIXELS:,}")
            packets = [p for p in container.demux(stream) if p.size and p.pts is not None]
            if not packets:
                raise MediaError("a video without frames")
            base = float(stream.time_base)
            stamps = np.sort([p.pts * base for p in packets])
            stamps -= stamps[0]
            if stamps[-1] > MAX_VIDEO_SECONDS:
                raise MediaError(f"a video of {stamps[-1]:.0f} s; at most {MAX_VIDEO_SECONDS} s: cut it")
            wanted = np.arange(math.floor(stamps[-1]) + 1.0)
            if len(wanted) > max_frames:
                wanted = np.linspace(0, stamps[-1], max_frames)
            # The frame on screen at each wanted time, by presentation order (variable frame rates included).
            chosen = np.maximum(np.searchsorted(stamps, wanted + 1e-6, side="right") - 1, 0)
        frames = _frames(data, set(chosen.tolist()))
    except (av.FFmpegError, ValueError, TypeError, OverflowError, IndexError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"not a whole, known video ({len(data):,} bytes): {error}") from error
    missing = [index for index in chosen.tolist() if index not in frames]
    if missing:
        raise MediaError(f"a video that breaks off: {len(missing)} of {len(chosen)} sampled frames cannot be decoded")
    pictures = [frames[index] for index in chosen.tolist()]
    if len({p.shape for p in pictures}) > 1:
        raise MediaError("a video whose frame size changes")
    return np.stack(pictures), stamps[chosen].astype(np.float32)


def _frames(data: bytes, chosen: set[int]) -> dict[int, np.ndarray]:
    """The chosen frames by presentation index, upright; decodes up to the last and keeps no other."""
    found: dict[int, np.ndarray] = {}
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        last = max(chosen)
        try:
            for index, frame in enumerate(container.decode(stream)):
                if index in chosen:
                    turns = round(getattr(frame, "rotation", 0) / 90) % 4
                    found[index] = np.rot90(frame.to_ndarray(format="rgb24"), turns).copy()
                if index >= last:
                    break
        except av.FFmpegError:
            pass  # a broken tail: the caller says which sampled frames are missing
    return found


def render_pdf(data: bytes, max_pages: int = MAX_PAGES, longest: int = 1536) -> list[np.ndarray]:
    """A PDF -> its pages u8[h,w,3], the longer side `longest` pixels; at most `max_pages`."""
    with PDF:
        try:
            document = pypdfium2.PdfDocument(data)
            try:
                if not 1 <= len(document) <= max_pages:
                    raise MediaError(f"a PDF of {len(document)} pages; 1 to {max_pages} can be embedded: split it")
                pages = []
                for page in document:
                    scale = longest / max(*page.get_size(), 1)
                    pages.append(np.asarray(page.render(scale=scale).to_pil().convert("RGB")))
                return pages
            finally:
                document.close()
        except MediaError:
            raise
        except Exception as error:  # pdfium's errors come as several types
            raise MediaError(f"not a readable PDF ({len(data):,} bytes): {error}") from error
