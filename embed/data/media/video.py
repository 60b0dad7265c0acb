"""Encoded video -> frames at the seconds that are looked at; a clear error for what cannot be decoded."""

import math
from collections.abc import Iterator

import av
import numpy as np
from PIL import Image as Pillow

from embed.data.media.containers import check_frame, claimed_seconds, find_audio, find_video, open_container
from embed.data.media.errors import MediaError, as_media_error, check_bytes

KEPT_FRAME_PIXELS = 1920 * 1088  # a larger frame is scaled down: 32 of these are 0.2 GB
MAX_VIDEO_SECONDS = 3600
MAX_FRAMES = 32  # of one input (the API of Gemini Embedding 2)
CLIP_SECONDS = 4.0
CLIP_RATE = 8.0  # frames per second of a clip
CLIP_SIDE = 176  # pixels of its longer side
MAX_PACKETS = MAX_VIDEO_SECONDS * 60
MAX_DECODED_PIXELS = 5 * 10**10  # what one video may make us decode: minutes of a core, not hours
ACCEPTED = "MP4, WebM, MKV, MOV or AVI"
VIDEO_SUFFIXES = frozenset(
    {
        ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3gpp", ".3g2", ".3gpp2", ".f4v", ".mj2", ".mkv", ".mk3d", ".webm",
        ".avi", ".ts", ".m2ts", ".mts", ".m2t", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob", ".mod", ".tod", ".wmv",
        ".asf", ".flv", ".ogv", ".ogm", ".ogx",
    }
)  # fmt: skip
ERRORS = (av.FFmpegError,)


def has_video(data: bytes) -> bool:
    """Whether a container has moving pictures: an .mp4 or a .webm may hold sound alone, with a cover or without.

    Raises MediaError where it is broken.
    """
    check_bytes("a video", data)
    with as_media_error("a video", ACCEPTED, ERRORS), open_container(data) as container:
        return find_video(container) is not None


def decode_video(data: bytes, max_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """An encoded video -> (u8[i,h,w,3] RGB frames, upright; f32[i] seconds from its first frame), i <= `max_frames`.

    The frames on screen at the `sample_times` of its length, scaled down to 1920x1088 pixels where they have more; the
    sound is not read. Raises MediaError, also above an hour or 4096x2304 pixels, or where a frame it needs is broken.
    """
    check_bytes("a video", data)
    with as_media_error("a video", ACCEPTED, ERRORS), open_container(data) as container:
        stream = find_video(container)
        if stream is None and find_audio(container) is not None:
            raise MediaError("a video without frames: the file has sound alone; give it as audio")
        if stream is None:
            raise MediaError("a video without frames: the file has no video stream that can be decoded")
        check_frame(stream.width, stream.height)
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
        seconds = max(have, claimed_seconds(container, stream))
        if seconds > MAX_VIDEO_SECONDS:
            raise MediaError(f"a video of {seconds:,.0f} s; at most {MAX_VIDEO_SECONDS:,} s: cut it into pieces")
        times = sample_times(seconds, max_frames)
        if times[-1] > have + 0.1:
            raise MediaError(f"a video that claims {seconds:.1f} s and has {have:.1f} s: it is cut short")
        # no more grace than ticks times a float need: at 29.97 a second, frame 30 comes a millisecond after second 1
        places = np.searchsorted(at, times + 1e-6, side="right") - 1
        return _decode_chosen(stream, packets, stamps, [shown[p] for p in places]), times.astype(np.float32)


def decode_clip(data: bytes) -> list[np.ndarray]:
    """The first seconds of a video at a low rate, u8[h,w,3] each; [] where it cannot be played through."""
    frames: list[np.ndarray] = []
    try:
        with open_container(data) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            start = None
            for frame in container.decode(stream):
                start = frame.time if start is None else start
                if frame.time - start >= CLIP_SECONDS:
                    break
                if frame.time - start >= len(frames) / CLIP_RATE - 1e-6:
                    image = Pillow.fromarray(frame.to_ndarray(format="rgb24"))
                    image.thumbnail((CLIP_SIDE, CLIP_SIDE))
                    frames.append(np.asarray(image))
    except (av.FFmpegError, ValueError, TypeError, IndexError):
        return []
    return frames if len({frame.shape for frame in frames}) == 1 else []


def sample_times(seconds: float, most: int) -> np.ndarray:
    """f64[i], when to look at a video: at each whole second it lasts, at 0 s alone if shorter; of more than `most` such
    seconds, `most` spread evenly and rounded down."""
    count = max(math.floor(seconds + 1e-3), 1)  # a container may round its times to milliseconds
    return np.linspace(0, count - 1, min(count, most), dtype=int).astype(np.float64)


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
        if not claimed_seconds(container, stream):  # else the caller sees what is missing, and whether it needs it
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
            picture = _oriented(before)
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


def _oriented(frame: av.VideoFrame) -> np.ndarray:
    """The frame's pixels as they are to be seen, u8[h,w,3]; of a large one fewer."""
    check_frame(frame.width, frame.height)
    smaller = min(1.0, math.sqrt(KEPT_FRAME_PIXELS / (frame.width * frame.height)))
    width, height = (max(1, round(side * smaller)) for side in (frame.width, frame.height))
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    return np.rot90(pixels, round(frame.rotation / 90))
