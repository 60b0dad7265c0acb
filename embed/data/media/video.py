"""Decode encoded video to frames, one per second, within the limits of Gemini Embedding 2's API."""

import math
from collections.abc import Iterator

import av
import numpy as np
from PIL import Image as Pillow

from embed.data.media.containers import check_frame, claimed_seconds, find_audio, find_video, open_container
from embed.data.media.errors import MediaError, as_media_error, check_bytes

DOWNSCALE_ABOVE = 1920 * 1088  # a larger frame is scaled down: 32 of these are 0.2 GB
MAX_VIDEO_SECONDS = 3600
MAX_FRAMES = 32  # of one input (the API of Gemini Embedding 2)
CLIP_SECONDS = 4.0
CLIP_RATE = 8.0  # frames per second of a clip
CLIP_SIDE = 176  # pixels of its longer side
MAX_PACKETS = MAX_VIDEO_SECONDS * 60
MAX_DECODED_PIXELS = 5 * 10**10  # per video: minutes of one core, not hours
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
    """Whether a container has video: an .mp4 or .webm may hold only audio, with or without a cover.

    Raises MediaError where it is broken.
    """
    check_bytes("a video", data)
    with as_media_error("a video", ACCEPTED, ERRORS), open_container(data) as container:
        return find_video(container) is not None


def decode_video(data: bytes, max_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Decode a video to RGB frames u8[i,h,w,3], upright, and their times f32[i] in seconds; i <= `max_frames`.

    These are the frames on screen at the `sample_times` of its length, scaled down to 1920x1088 pixels where they are
    larger. The soundtrack is not read. Raises MediaError, also above an hour or 4096x2304 pixels, and where a frame
    that is needed is broken.
    """
    check_bytes("a video", data)
    with as_media_error("a video", ACCEPTED, ERRORS), open_container(data) as container:
        stream = find_video(container)
        if stream is None and find_audio(container) is not None:
            raise MediaError("video has no frames: the file has only audio; pass it as `audio`")
        if stream is None:
            raise MediaError("video has no frames: the file has no video stream that can be decoded")
        check_frame(stream.width, stream.height)
        packets, stamps = _packets(container, stream)
        # edit lists hide packets, and frames shown before the first key frame need packets that are missing
        shown = [n for n, p in enumerate(packets) if not p.is_discard and stamps[n] >= stamps[0]]
        if not shown:
            raise MediaError("video has no frames: nothing in its video stream can be decoded")
        shown.sort(key=lambda n: stamps[n])
        tick = float(stream.time_base or 0)
        at = np.array([(stamps[n] - stamps[shown[0]]) * tick for n in shown])
        gap = float(np.median(np.diff(at))) if len(at) > 1 else 0.0  # containers may omit the length of the last frame
        available = at[-1] + max((packets[shown[-1]].duration or 0) * tick, gap)
        seconds = max(available, claimed_seconds(container, stream))
        if seconds > MAX_VIDEO_SECONDS:
            raise MediaError(f"video of {seconds:,.0f} s is too long: at most {MAX_VIDEO_SECONDS:,} s; split it")
        times = sample_times(seconds, max_frames)
        if times[-1] > available + 0.1:
            raise MediaError(f"video claims {seconds:.1f} s but has {available:.1f} s: the file is truncated")
        # only rounding is forgiven: at 29.97 frames/s, frame 30 comes a millisecond after second 1
        on_screen = np.searchsorted(at, times + 1e-6, side="right") - 1
        frames = _decode_chosen(stream, packets, stamps, [shown[i] for i in on_screen])
        return frames, times.astype(np.float32)


def decode_clip(data: bytes) -> list[np.ndarray]:
    """Decode the first seconds of a video at a low rate, u8[h,w,3] each; [] where a frame cannot be decoded."""
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


def sample_times(seconds: float, max_frames: int) -> np.ndarray:
    """The times f64[i] at which a video is sampled: every whole second, or only 0 s for a shorter video.

    Of more than `max_frames` seconds, `max_frames` are chosen evenly and rounded down.
    """
    count = max(math.floor(seconds + 1e-3), 1)  # a container may round its times to milliseconds
    return np.linspace(0, count - 1, min(count, max_frames), dtype=int).astype(np.float64)


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[list[av.Packet], list[int]]:
    """The stream's packets in decoding order, from the first key frame, and when each is shown, in ticks."""
    packets: list[av.Packet] = []
    stamps: list[int] = []
    try:
        for packet in container.demux(stream):
            stamp = packet.dts if packet.pts is None else packet.pts  # AVI has only dts
            if stamp is not None and packet.size and (packets or packet.is_keyframe):
                packets.append(packet)
                stamps.append(stamp)
            if len(packets) > MAX_PACKETS:
                raise MediaError(f"video has more than {MAX_PACKETS:,} frames: split it")
    except av.FFmpegError:
        if not claimed_seconds(container, stream):  # otherwise the caller notices what is missing
            raise
    return packets, stamps


def _decode_chosen(
    stream: av.VideoStream, packets: list[av.Packet], stamps: list[int], chosen: list[int]
) -> np.ndarray:
    """Decode the frames of the packets numbered `chosen`, in display order, to u8[i,h,w,3]; only what they need."""
    needed = np.zeros(len(packets), bool)
    for place in set(chosen):
        key = place
        while key and not (packets[key].is_keyframe and stamps[key] <= stamps[place]):
            key -= 1
        needed[key : place + 1] = True
    count = int(needed.sum())
    if count * stream.width * stream.height > MAX_DECODED_PIXELS:
        raise MediaError(f"video needs {count:,} frames decoded: split it, or save it with more key frames")
    chosen_stamps = np.array([stamps[place] for place in chosen])
    frames = np.zeros((len(chosen), 0, 0, 3), np.uint8)
    done, before = 0, None
    for frame, stamp in _decode_runs(stream.codec_context, packets, stamps, needed):
        num_settled = int(np.searchsorted(chosen_stamps, stamp))  # the previous frame is on screen until this one
        if num_settled > done:
            if before is None:
                break
            image = _oriented(before)
            if not done:
                frames = np.zeros((len(chosen), *image.shape), np.uint8)
            if image.shape != frames.shape[1:]:
                raise MediaError("the video changes its frame size: save it with one size")
            frames[done:num_settled] = image
            done = num_settled
        if done == len(chosen):
            return frames
        before = frame
    raise MediaError(f"only {done} of {len(chosen)} sampled video frames can be decoded: the file is broken")


def _decode_runs(
    codec: av.VideoCodecContext, packets: list[av.Packet], stamps: list[int], needed: np.ndarray
) -> Iterator[tuple[av.VideoFrame | None, int]]:
    """Yield (frame, time in ticks) in display order, and (None, time past its end) after every run of packets."""
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
    """The frame's pixels upright, u8[h,w,3]; a large frame is scaled down."""
    check_frame(frame.width, frame.height)
    smaller = min(1.0, math.sqrt(DOWNSCALE_ABOVE / (frame.width * frame.height)))
    width, height = (max(1, round(side * smaller)) for side in (frame.width, frame.height))
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    return np.rot90(pixels, round(frame.rotation / 90))
