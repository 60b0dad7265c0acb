"""Decoded content -> pieces of an input: token ids, patches of an image, frames of an audio clip."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from embed.batch import MediaFormat
from embed.data.media.decode import SAMPLE_RATE, MediaError, frame_audio
from embed.data.media.mel import log_mel
from embed.data.media.patches import resize_to_patches
from embed.data.tokenizer import Tokenizer

MAX_TOKENS = 8192  # of one input (the API of Gemini Embedding 2)
MAX_CHARACTERS = 48 * MAX_TOKENS  # a longer text is refused before it is tokenized


class LimitError(ValueError):
    """An input over the limits or over its task's budget; the message says which, by how much, and what to do."""


@dataclasses.dataclass(frozen=True)
class TextPiece:
    ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ImagePiece:
    patches: np.ndarray  # u8[p,c]
    xy: np.ndarray  # i32[p,2]
    delimiters: tuple[int, int, int]  # ids of the begin, placeholder and end tokens
    prefix_ids: tuple[int, ...] = ()  # a video frame's timestamp, kept or dropped together with the frame


@dataclasses.dataclass(frozen=True)
class AudioPiece:
    frames: np.ndarray  # f32[t,m]
    per_token: int = 1  # frames of one soft token
    continued: bool = False  # continues the clip before it

    @property
    def num_tokens(self) -> int:
        return math.ceil(len(self.frames) / self.per_token)


Piece = TextPiece | ImagePiece | AudioPiece


def text_pieces(text: str, tokenizer: Tokenizer, media: MediaFormat) -> list[Piece]:
    """Tokenize a text. Raises LimitError for one of more than MAX_CHARACTERS."""
    if len(text) > MAX_CHARACTERS:
        raise LimitError(f"text of {len(text):,} characters is too long: at most {MAX_CHARACTERS:,}; split it")
    return [TextPiece(tuple(tokenizer.encode(text)))]


def image_pieces(pixels: np.ndarray, tokenizer: Tokenizer, media: MediaFormat) -> list[Piece]:
    """Cut an image u8[h,w,3] to patches. Raises LimitError."""
    return [_image_piece(pixels, media.image_patches, tokenizer.image, media)]


def page_pieces(pages: Iterable[np.ndarray], tokenizer: Tokenizer, media: MediaFormat) -> list[Piece]:
    """Cut a document's pages, u8[h,w,3] each, to patches: one piece per page. Raises LimitError."""
    return [_image_piece(page, media.image_patches, tokenizer.image, media) for page in pages]


def video_pieces(video: tuple[np.ndarray, Iterable[float]], tokenizer: Tokenizer, media: MediaFormat) -> list[Piece]:
    """Cut video frames u8[i,h,w,3], with the seconds they are shown at, to patches: one piece per frame.

    Raises LimitError.
    """
    pieces: list[Piece] = []
    for number, (frame, seconds) in enumerate(zip(*video, strict=True)):
        prefix_ids = _timestamp_ids(seconds, number > 0, tokenizer) if media.timestamps else ()
        pieces.append(_image_piece(frame, media.frame_patches, tokenizer.video, media, prefix_ids))
    return pieces


def _image_piece(
    pixels: np.ndarray,
    max_patches: int,
    delimiters: tuple[int, int, int],
    media: MediaFormat,
    prefix_ids: tuple[int, ...] = (),
) -> ImagePiece:
    patches, xy = resize_to_patches(pixels, media.patch_size, max_patches)
    side = 1 + int(xy.max())
    if side > media.max_patches_per_side:
        raise LimitError(
            f"image is {side} patches long: at most {media.max_patches_per_side}; crop it or lower `patches`"
        )
    return ImagePiece(patches, xy, delimiters, prefix_ids)


def _timestamp_ids(seconds: float, is_later: bool, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokenize the "mm:ss " before a frame, with a space in front of it after the first frame."""
    text = f"{int(seconds // 60):02d}:{int(seconds % 60):02d} "
    return tuple(tokenizer.encode(" " + text if is_later else text))


def audio_pieces(samples: np.ndarray, tokenizer: Tokenizer, media: MediaFormat) -> list[Piece]:
    """Cut a waveform f32[n] to clips of frames, in order. Raises MediaError where it is too short for one frame."""
    size = media.clip_tokens * media.audio_frame_size
    clips = [_to_frames(samples[start : start + size], media) for start in range(0, len(samples), size)]
    clips = [frames for frames in clips if len(frames)]  # the last clip may be too short for a frame
    if not clips:
        milliseconds = 1000 * len(samples) / SAMPLE_RATE
        raise MediaError(f"audio of {milliseconds:.1f} ms is too short: need at least 10.1 ms")
    return [AudioPiece(frames, media.audio_shape[0], number > 0) for number, frames in enumerate(clips)]


def _to_frames(samples: np.ndarray, media: MediaFormat) -> np.ndarray:
    return log_mel(samples, media.mel_bins) if media.mel_bins else frame_audio(samples, media.audio_frame_size)
