"""Containers of video and sound, opened by PyAV: bounded, from memory alone, and on every PyAV from 16 on."""

import io
from typing import Any

import av

from embed.data.media.errors import MediaError

MAX_FRAME_PIXELS = 4096 * 2304  # of a video
DEMUXERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif,aac,mp3,flac,wav,amr,aiff,caf"
# Until PyAV 19, metadata that is not UTF-8 stops a file from opening unless this is given; 19 always replaces it.
LENIENT: dict[str, Any] = (
    {"metadata_errors": "replace"} if hasattr(av.container.InputContainer, "metadata_errors") else {}
)


def open_container(data: bytes) -> av.container.InputContainer:
    """Opens what is in memory; nothing that reaches for other files. Raises av.FFmpegError."""
    # max_pixels bounds what a codec allocates while the container is probed
    options = {"format_whitelist": DEMUXERS, "max_pixels": str(MAX_FRAME_PIXELS)}
    return av.open(io.BytesIO(data), "r", options=options, **LENIENT)


def claimed_seconds(container: av.container.InputContainer, stream: av.AudioStream | av.VideoStream) -> float:
    """How long the header says the stream is; 0 where it does not, and ffmpeg would estimate it."""
    if container.format.name.startswith(("mov", "avi")):
        return float((stream.duration or 0) * (stream.time_base or 0))
    alone = container.format.name.startswith("matroska") and len(container.streams) == 1  # states it for the whole file
    return (container.duration or 0) / av.time_base if alone else 0.0


def find_video(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first stream of moving pictures that can be decoded: the cover of an album is none."""
    cover = av.stream.Disposition.attached_pic
    return next((s for s in container.streams.video if s.codec_context and not s.disposition & cover), None)


def find_audio(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first stream of sound that can be decoded."""
    return next((s for s in container.streams.audio if s.codec_context), None)


def check_frame(width: int, height: int) -> None:
    """Raises MediaError above 4096x2304 pixels."""
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError(f"a video of {width}x{height} pixels; at most {MAX_FRAME_PIXELS:,}: scale it down")
