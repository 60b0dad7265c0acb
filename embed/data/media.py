"""Encoded media -> pixels and samples, within the report's limits; a clear error for what cannot be decoded.

The bytes are hostile until decoded: nothing is allocated by what a header claims, no format that reaches for other
files or programs (playlists, PostScript) is tried, and every failure is a MediaError.
"""

import contextlib
import io
import math
from collections.abc import Iterator

import av
import numpy as np
import soundfile
import soxr
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

SAMPLE_RATE = 16_000
MAX_PIXELS = 64_000_000  # of an image
KEPT_PIXELS = 16_000_000  # one with more is averaged down: models see less, and a decoded pixel is four bytes and more
MAX_SECONDS = 180  # of audio
MAX_FRAME_PIXELS = 4096 * 2304  # of a video
KEPT_FRAME_PIXELS = 1920 * 1088  # a larger frame is scaled down: 32 of these are 0.2 GB
MAX_VIDEO_SECONDS = 3600
MAX_PACKETS = MAX_VIDEO_SECONDS * 60
MAX_DECODED_PIXELS = 5 * 10**10  # what one video may make us decode: minutes of a core, not hours

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO")
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif,aac,mp3,flac,wav,amr,aiff,caf"
UNKNOWN_TO_SOUNDFILE = (1, 4, 64, 161)  # libsndfile: unknown format, unknown encoding, WAV of AC-3 or such, FLAC in Ogg
UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}  # EXIF orientation -> what undoes it
ORIENTATION = 0x0112


class MediaError(ValueError):
    """Media that cannot be decoded; the message says why and what to do."""


@contextlib.contextmanager
def explained(kind: str, data: bytes, accepted: str) -> Iterator[None]:
    """Any failure inside becomes a MediaError: the decoders raise nearly every type on malformed bytes."""
    if not data:
        raise MediaError(f"no bytes where {kind} should be: the file is empty")
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(
            f"cannot decode {len(data):,} bytes as {kind} ({type(error).__name__}: {str(error)[:200]}): the file is "
            f"broken, cut short or of another kind; give {accepted}"
        ) from error


def decode_image(data: bytes) -> np.ndarray:
    """An encoded image -> u8[h,w,3] RGB, upright, transparency over white; of an animation, the first frame.

    One of more than 16 megapixels is averaged down. Raises MediaError, also above 64 megapixels.
    """
    with explained("an image", data, "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"):
        try:
            image: Pillow.Image = Pillow.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        except UnidentifiedImageError:
            raise MediaError(f"{len(data):,} bytes that are no image: give PNG, JPEG, WebP or the like") from None
        if image.width * image.height > MAX_PIXELS:
            raise MediaError(f"an image of {image.width}x{image.height} pixels; at most {MAX_PIXELS:,}: scale it down")
        image.load()
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))  # after loading: Pillow turns some formats itself
        if image.mode.startswith("I;16"):  # Pillow clips instead of scaling
            image = Pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise MediaError("an image of 32 bits a pixel, whose white is unknown: save it with 8 or 16")
        clear = image.has_transparency_data
        if image.mode not in ("L", "RGB", "LA", "RGBA") or (clear and image.mode in ("L", "RGB")):
            image = image.convert("RGBA" if clear else "RGB")
        if (many := image.width * image.height / KEPT_PIXELS) > 1:
            image = image.reduce(math.ceil(math.sqrt(many)))
        if clear:
            layer = image.convert("RGBA")
            image = Pillow.new("RGB", layer.size, "white")  # two thirds of the memory of an alpha_composite
            image.paste(layer, mask=layer)
        return np.array((image if turn is None else image.transpose(turn)).convert("RGB"))


def decode_audio(data: bytes, cut: bool = False) -> np.ndarray:
    """An encoded sound, or a video's -> f32[n], mono, -1..1 at 16 kHz.

    Raises MediaError, also above 180 s, unless `cut`: then the first 180 s are taken.
    """
    with explained("audio", data, "WAV, FLAC, MP3, Ogg, M4A or WebM"):
        _check_wav(data)
        kept: list[np.ndarray] = []
        count, rate = 0, 0
        for rate, block in _blocks(data, cut):
            kept.append(block)
            count += len(block)
            if count > MAX_SECONDS * rate:
                if not cut:
                    raise MediaError(f"a sound longer than {MAX_SECONDS} s: cut it into pieces")
                kept[-1] = block[: len(block) + MAX_SECONDS * rate - count]
                break
        samples = np.concatenate(kept) if kept else np.zeros(0, np.float32)
        if not np.isfinite(samples).all():
            raise MediaError("a sound with samples that are not finite: save it again as integers")
        if rate != SAMPLE_RATE and count:
            samples = soxr.resample(samples, rate, SAMPLE_RATE)
        if not len(samples):
            raise MediaError("a sound without samples")
        return np.clip(samples, -1, 1)


def _check_wav(data: bytes) -> None:
    """Raises MediaError where a WAV claims more samples than it has: libsndfile would silently give what is there."""
    at = 12
    while data[:4] == b"RIFF" and at + 8 <= len(data):
        size, there = int.from_bytes(data[at + 4 : at + 8], "little"), len(data) - at - 8
        streamed = size == 0xFFFFFFFF == int.from_bytes(data[4:8], "little")  # "until the end", from ffmpeg to a pipe
        if data[at : at + 4] == b"data":
            if size > there and not streamed:
                raise MediaError(f"a WAV that claims {size:,} bytes of sound and has {there:,}: it is cut short")
            return
        at += 8 + size + size % 2


def _check_sound(rate: int, channels: int) -> None:
    if not 1000 <= rate <= 192_000 or not 1 <= channels <= 32:
        raise MediaError(f"a sound that claims {rate:,} Hz and {channels} channels: its header is wrong, save it again")


def _blocks(data: bytes, long: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (rate in Hz, f32[n] the mean of the channels), a little at a time: the header's length is not trusted.

    Raises MediaError above 180 s, unless it may be `long`.
    """
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        if error.code not in UNKNOWN_TO_SOUNDFILE:
            raise MediaError(f"a sound that is malformed ({error.error_string}): save it again") from error
        yield from _blocks_by_av(data)
        return
    with file:
        _check_sound(file.samplerate, file.channels)
        if file.frames > 2**62:  # a FLAC written to a pipe does not know its length, and libsndfile stumbles at its end
            yield from _blocks_by_av(data)
            return
        if file.frames > MAX_SECONDS * file.samplerate and not long:
            raise MediaError(f"a sound of {file.frames / file.samplerate:,.0f} s; at most {MAX_SECONDS} s: cut it")
        count = 0
        while len(block := file.read(65_536, dtype="float32", always_2d=True)):
            count += len(block)
            yield file.samplerate, block[:, 0] if file.channels == 1 else block.mean(axis=1)
        if file.frames - count > 0.1 * file.samplerate:  # Opus files often count a few samples that are not there
            raise MediaError(f"a sound that claims {file.frames:,} samples and has {count:,}: it is cut short")


def _open(data: bytes) -> av.container.InputContainer:
    # max_pixels bounds what a codec allocates while the container is probed
    options = {"format_whitelist": CONTAINERS, "max_pixels": str(MAX_FRAME_PIXELS)}
    return av.open(io.BytesIO(data), "r", options=options, metadata_errors="replace")


def _claimed_seconds(container: av.container.InputContainer, stream: av.AudioStream | av.VideoStream) -> float:
    """How long the header says the stream is; 0 where it does not, and ffmpeg would estimate it."""
    if container.format.name.startswith(("mov", "avi")):
        return float((stream.duration or 0) * (stream.time_base or 0))
    alone = container.format.name.startswith("matroska") and len(container.streams) == 1  # states it for the whole file
    return (container.duration or 0) / av.time_base if alone else 0.0


def _blocks_by_av(data: bytes) -> Iterator[tuple[int, np.ndarray]]:
    """Like `_blocks`, for what libsndfile does not know: AAC, Opus in WebM, the sound of a video, ..."""
    with _open(data) as container:
        stream = next((s for s in container.streams.audio if s.codec_context), None)
        if stream is None:
            raise MediaError("a file without sound that can be decoded: give audio, or a video with sound")
        _check_sound(stream.rate or 0, stream.channels)
        stream.codec_context.thread_count = 1
        to_float = av.AudioResampler("fltp")
        seconds = 0.0
        for frame in container.decode(stream):
            for part in to_float.resample(frame):
                seconds += part.samples / part.sample_rate
                yield part.sample_rate, part.to_ndarray().mean(axis=0)
        claimed = _claimed_seconds(container, stream)
        if seconds < 0.9 * claimed - 0.5:
            raise MediaError(f"a sound that claims {claimed:.1f} s and has {seconds:.1f} s: it is cut short")


def frame_audio(samples: np.ndarray, frame: int = 640) -> np.ndarray:
    """f32[n] -> f32[ceil(n / frame), frame], the last frame filled up with zeros; 640 samples are 40 ms."""
    count = math.ceil(len(samples) / frame)
    return np.pad(samples, (0, count * frame - len(samples))).reshape(count, frame)


def decode_video(data: bytes, max_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """An encoded video -> (u8[i,h,w,3] RGB frames, upright; f32[i] seconds from its first frame), i <= `max_frames`.

    The frames on screen at the `sample_times` of its length, scaled down to 1920x1088 pixels where they have more; the
    sound is not read. Raises MediaError, also above an hour or 4096x2304 pixels, or where a frame it needs is broken.
    """
    with explained("a video", data, "MP4, WebM, MKV, MOV or AVI"), _open(data) as container:
        cover = av.stream.Disposition.attached_pic
        stream = next((s for s in container.streams.video if s.codec_context and not s.disposition & cover), None)
        if stream is None:
            raise MediaError("a video without frames: the file has no video stream that can be decoded")
        _check_frame(stream.width, stream.height)
        packets, stamps = _packets(container, stream)
        # an edit list hides packets, and what is shown before the first key frame needs frames that are not there
        shown = [n for n, p in enumerate(packets) if not p.is_discard and stamps[n] >= stamps[0]]
        if not shown:
            raise MediaError("a video without frames: nothing in its video stream can be decoded")
        shown.sort(key=lambda n: stamps[n])
        tick = float(stream.time_base or 0)
        at = np.array([(stamps[n] - stamps[shown[0]]) * tick for n in shown])
        gap = float(np.median(np.diff(at))) if len(at) > 1 else 0.0  # containers may say too little of the last frame
        have = at[-1] + max((packets[shown[-1]].duration or 0) * tick, gap)
        seconds = max(have, _claimed_seconds(container, stream))
        if seconds > MAX_VIDEO_SECONDS:
            raise MediaError(f"a video of {seconds:,.0f} s; at most {MAX_VIDEO_SECONDS:,} s: cut it into pieces")
        times = sample_times(seconds, max_frames)
        if times[-1] > have + 0.1:
            raise MediaError(f"a video that claims {seconds:.1f} s and has {have:.1f} s: it is cut short")
        # no more grace than ticks times a float need: at 29.97 a second, frame 30 comes a millisecond after second 1
        places = np.searchsorted(at, times + 1e-6, side="right") - 1
        return _decode_chosen(stream, packets, stamps, [shown[p] for p in places]), times.astype(np.float32)


def sample_times(seconds: float, most: int) -> np.ndarray:
    """f64[i], when to look at a video: at each whole second it lasts, at 0 s alone if shorter; of more than `most` such
    seconds, `most` spread evenly and rounded down."""
    count = max(math.floor(seconds + 1e-3), 1)  # a container may round its times to milliseconds
    return np.linspace(0, count - 1, min(count, most), dtype=int).astype(np.float64)


def _check_frame(width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError(f"a video of {width}x{height} pixels; at most {MAX_FRAME_PIXELS:,}: scale it down")


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[list[av.Packet], list[int]]:
    """The stream's compressed frames in decoding order, from the first key frame, and when each is shown, in ticks."""
    packets: list[av.Packet] = []
    stamps: list[int] = []
    try:
        for packet in container.demux(stream):
            stamp = packet.dts if packet.pts is None else packet.pts  # AVI has the former only
            if stamp is not None and packet.size and (packets or packet.is_keyframe):
                packets.append(packet)
                stamps.append(stamp)
            if len(packets) > MAX_PACKETS:
                raise MediaError(f"a video of more than {MAX_PACKETS:,} frames: cut it into pieces")
    except av.FFmpegError:
        if not _claimed_seconds(container, stream):  # else the caller sees what is missing, and whether it needs it
            raise
    return packets, stamps


def _decode_chosen(
    stream: av.VideoStream, packets: list[av.Packet], stamps: list[int], chosen: list[int]
) -> np.ndarray:
    """The frames of the packets numbered `chosen`, in order of showing -> u8[i,h,w,3]; decodes what they need only."""
    needed = np.zeros(len(packets), bool)
    for place in set(chosen):
        key = place
        while key and not (packets[key].is_keyframe and stamps[key] <= stamps[place]):
            key -= 1
        needed[key : place + 1] = True
    count = int(needed.sum())
    if count * stream.width * stream.height > MAX_DECODED_PIXELS:
        raise MediaError(f"a video that takes decoding {count:,} frames: cut it, or save it with more key frames")
    wanted = np.array([stamps[place] for place in chosen])
    frames = np.zeros((len(chosen), 0, 0, 3), np.uint8)
    done, before = 0, None
    for frame, stamp in _decode_runs(stream.codec_context, packets, stamps, needed):
        settled = int(np.searchsorted(wanted, stamp))  # for these, the frame before is on screen: this one comes later
        if settled > done:
            if before is None:
                break
            picture = _upright(before)
            if not done:
                frames = np.zeros((len(chosen), *picture.shape), np.uint8)
            if picture.shape != frames.shape[1:]:
                raise MediaError("a video whose frames change size: save it again at one size")
            frames[done:settled] = picture
            done = settled
        if done == len(chosen):
            return frames
        before = frame
    raise MediaError(f"a video of whose {len(chosen)} sampled frames only {done} can be decoded: it is broken")


def _decode_runs(
    codec: av.VideoCodecContext, packets: list[av.Packet], stamps: list[int], needed: np.ndarray
) -> Iterator[tuple[av.VideoFrame | None, int]]:
    """Yields (frame, when it is shown) in that order, and after every run of needed packets (None, past its end)."""
    codec.thread_count = 1
    end = stamps[0]
    for n in np.flatnonzero(needed).tolist():
        last = n + 1 == len(needed) or not needed[n + 1]
        end = max(end, stamps[n] + 1)
        for packet in (packets[n], None) if last else (packets[n],):
            yield from ((frame, frame.pts) for frame in codec.decode(packet) if frame.pts is not None)
        if last:
            yield None, end
            codec.flush_buffers()


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """The frame's pixels as they are to be seen, u8[h,w,3]; of a large one fewer."""
    _check_frame(frame.width, frame.height)
    smaller = min(1.0, math.sqrt(KEPT_FRAME_PIXELS / (frame.width * frame.height)))
    width, height = (max(1, round(side * smaller)) for side in (frame.width, frame.height))
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    return np.rot90(pixels, round(frame.rotation / 90))
