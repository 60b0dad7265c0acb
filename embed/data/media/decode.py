"""Decode encoded media to pixels and samples, within the limits of Gemini Embedding 2's API.

The bytes are hostile until decoded: nothing is allocated by what a header claims, no format that reaches for other
files or programs (playlists, PostScript) is tried, and every failure is a MediaError.
"""

from embed.data.media.audio import AUDIO_SUFFIXES, MAX_SECONDS, SAMPLE_RATE, decode_audio, frame_audio
from embed.data.media.errors import MediaError
from embed.data.media.images import IMAGE_SUFFIXES, decode_image, to_rgb
from embed.data.media.video import VIDEO_SUFFIXES, decode_video, has_video, sample_times

__all__ = [
    "AUDIO_SUFFIXES",
    "IMAGE_SUFFIXES",
    "MAX_SECONDS",
    "SAMPLE_RATE",
    "VIDEO_SUFFIXES",
    "MediaError",
    "decode_audio",
    "decode_image",
    "decode_video",
    "frame_audio",
    "has_video",
    "sample_times",
    "to_rgb",
]
