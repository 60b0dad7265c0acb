"""Open containers of video and audio with PyAV 16 and newer, with bounded memory and no access to other files."""

import io
from typing import Any

import av

from embed.data.media.errors import MediaError

MAX_FRAME_PIXELS = 4096 * 2304  # of a video
DEMUXERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif,aac,mp3,flac,wav,amr,aiff,caf"
# Before PyAV 19, a file with metadata that is not UTF-8 opens only with this option; 19 always replaces it.
LENIENT: dict[str, Any] = (
    {"metadata_errors": "replace"} if hasattr(av.container.InputContainer, "metadata_errors") else {}
)


def open_container(data: bytes) -> av.container.InputContainer:
    """Open a file in memory, with formats that cannot reach for other files. Raises av.FFmpegError."""
    # max_pixels bounds what a codec allocates while the container is probed
    options = {"format_whitelist": DEMUXERS, "max_pixels": str(MAX_FRAME_PIXELS)}
    return av.open(io.BytesIO(data), "r", options=options, **LENIENT)


def claimed_seconds(container: av.container.InputContainer, stream: av.AudioStream | av.VideoStream) -> float:
    """The length of the stream by its header; 0 where the header has none and ffmpeg would estimate it."""
    if container.format.name.startswith(("mov", "avi")):
        return float((stream.duration or 0) * (stream.time_base or 0))
    is_single = container.format.name.startswith("matroska") and len(container.streams) == 1  # its length is the file's
    return (container.duration or 0) / av.time_base if is_single else 0.0


def find_video(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first video stream that can be decoded, not counting the cover of an album."""
    cover = av.stream.Disposition.attached_pic
    return next((s for s in container.streams.video if s.codec_context and not s.disposition & cover), None)


def find_audio(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first audio stream that can be decoded."""
    return next((s for s in container.streams.audio if s.codec_context), None)


def check_frame(width: int, height: int) -> None:
    """Raise MediaError for video frames above 4096x2304 pixels."""
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError(f"video of {width}x{height} pixels is too large: at most {MAX_FRAME_PIXELS:,}; scale it down")
