"""The modalities, each in one place: its part of a record, file names, decoder, soft tokens, preview and shingles.

To add a modality, write its part and its value here, and its decoder in embed/data/media/.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

from embed.batch import MediaFormat
from embed.data import pieces, previews, shingles
from embed.data.media.audio import AUDIO_SUFFIXES, decode_audio
from embed.data.media.images import IMAGE_SUFFIXES, decode_image
from embed.data.media.pdf import PDF_SUFFIXES, render_pdf
from embed.data.media.video import MAX_FRAMES, VIDEO_SUFFIXES, decode_video
from embed.data.pieces import Piece
from embed.data.previews import Preview
from embed.data.tokenizer import Tokenizer

MAX_IMAGES = 6  # of one input (the API of Gemini Embedding 2)


@dataclasses.dataclass(frozen=True)
class Text:
    text: str


@dataclasses.dataclass(frozen=True)
class Image:
    data: bytes = dataclasses.field(repr=False)  # an encoded file: PNG, JPEG, WebP, ...


@dataclasses.dataclass(frozen=True)
class Audio:
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Video:
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Pdf:
    data: bytes = dataclasses.field(repr=False)


Part = Text | Image | Audio | Video | Pdf
Content = tuple[Part, ...]
Value = TypeVar("Value", str, bytes)  # what a part holds: a text, or an encoded file
Decoded = TypeVar("Decoded")


@dataclasses.dataclass(frozen=True)
class Modality(Generic[Value, Decoded]):
    """One kind of part. Its functions raise MediaError for what cannot be decoded."""

    name: str  # the part's key in JSON
    plural: str  # in messages
    part: Callable[[Value], Part]  # the part's class
    value: type[Value]
    decode: Callable[[Value], Decoded]
    pieces: Callable[[Decoded, Tokenizer, MediaFormat], list[Piece]]
    is_supported: Callable[[MediaFormat], bool]  # whether a model of this format takes it
    preview: Callable[[Value], Preview]  # what the results page shows
    shingles: Callable[[Value], np.ndarray]  # u64[n], the hashed set that near-duplicate search compares
    is_visual: bool = False  # whether its preview has images
    suffixes: frozenset[str] = frozenset()  # of its files; text is every file that is no other modality
    max_parts: int | None = None  # of one input


def _takes_images(media: MediaFormat) -> bool:
    return bool(media.patch_size)


TEXT = Modality(
    name="text",
    plural="text",
    part=Text,
    value=str,
    decode=str,
    pieces=pieces.text_pieces,
    is_supported=lambda media: True,
    preview=previews.preview_text,
    shingles=shingles.shingle_text,
)
IMAGE = Modality(
    name="image",
    plural="images",
    part=Image,
    value=bytes,
    decode=decode_image,
    pieces=pieces.image_pieces,
    is_supported=_takes_images,
    preview=previews.preview_image,
    shingles=lambda data: shingles.shingle_images([decode_image(data)]),
    is_visual=True,
    suffixes=IMAGE_SUFFIXES,
    max_parts=MAX_IMAGES,
)
AUDIO = Modality(
    name="audio",
    plural="audio",
    part=Audio,
    value=bytes,
    decode=decode_audio,
    pieces=pieces.audio_pieces,
    is_supported=lambda media: bool(media.audio_frame_size),
    preview=previews.preview_audio,
    shingles=lambda data: shingles.shingle_audio(decode_audio(data)),
    suffixes=AUDIO_SUFFIXES,
)
VIDEO = Modality(
    name="video",
    plural="video",
    part=Video,
    value=bytes,
    decode=functools.partial(decode_video, max_frames=MAX_FRAMES),
    pieces=pieces.video_pieces,
    is_supported=_takes_images,
    preview=previews.preview_video,
    shingles=lambda data: shingles.shingle_images(list(decode_video(data, MAX_FRAMES)[0])),
    is_visual=True,
    suffixes=VIDEO_SUFFIXES,
)
PDF = Modality(
    name="pdf",
    plural="PDF",
    part=Pdf,
    value=bytes,
    decode=render_pdf,
    pieces=pieces.page_pieces,
    is_supported=_takes_images,
    preview=previews.preview_pdf,
    shingles=lambda data: shingles.shingle_images(render_pdf(data, longest=768)),
    is_visual=True,
    suffixes=PDF_SUFFIXES,
)
MODALITIES: tuple[Modality[Any, Any], ...] = (TEXT, IMAGE, AUDIO, VIDEO, PDF)
BY_NAME = {modality.name: modality for modality in MODALITIES}
_BY_PART = {modality.part: modality for modality in MODALITIES}


def is_part(value: Any) -> bool:
    """Whether a value is a part of a content."""
    return type(value) in _BY_PART


def modality_of(part: Part) -> Modality[Any, Any]:
    """The modality of a part. Raises KeyError for what is not a part."""
    return _BY_PART[type(part)]


def value_of(part: Part) -> str | bytes:
    """What a part holds: its text, or the bytes of its encoded file."""
    return part.text if isinstance(part, Text) else part.data


def bytes_of(part: Part) -> bytes:
    """What a part holds, a text as UTF-8."""
    return part.text.encode() if isinstance(part, Text) else part.data
