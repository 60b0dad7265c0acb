"""Parts in order -> pieces of an input: token ids, patches of a picture, frames of a sound; and what fits a budget."""

import dataclasses
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from embed.batch import MediaFormat
from embed.data import prompts
from embed.data.media import decode as media
from embed.data.media.mel import log_mel
from embed.data.media.patches import resize_to_patches
from embed.data.media.pdf import render_pdf
from embed.data.records import Audio, Content, Image, Part, Pdf, Text, Video
from embed.data.tokenizer import Tokenizer
from embed.model.config import Architecture

MAX_TOKENS = 8192  # the report's API
MAX_IMAGES = 6
MAX_FRAMES = 32
TOKENS = 32  # of the shortest standard row
MAX_CHARACTERS = 48 * MAX_TOKENS  # longer text is refused before it is tokenised


class LimitError(ValueError):
    """An input over the limits or over its task's budget; the message says which, by how much, and what to do."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """The static shape of one side of a task: what a row holds at most."""

    tokens: int  # l
    images: int = 0  # i, frames of a video included
    patches: int = 0  # p of each image; larger images are scaled down to it
    clips: int = 0  # a
    frames: int = 0  # soft tokens of each clip, 40 ms each; longer audio is cut in training


@dataclasses.dataclass(frozen=True)
class Preprocessor:
    """How content becomes a row; with the tokenizer's hash it is the input contract that travels with the weights."""

    tokenizer: Tokenizer
    media: MediaFormat

    @classmethod
    def load(cls, path: str | os.PathLike, arch: Architecture) -> "Preprocessor":
        """The preprocessor of a model, with its tokenizer read from a file. Raises ValueError, naming the file, where it does not fit."""
        tokenizer = Tokenizer.load(path)
        tokenizer.check_rows(arch.vocab_size)
        return cls(tokenizer, arch.media)

    def input_spec(self) -> dict[str, Any]:
        """What an encoder trained with this preprocessor expects, as plain JSON."""
        return {
            "tokenizer": self.tokenizer.hash,
            "media": dataclasses.asdict(self.media),
            "sample_rate": media.SAMPLE_RATE,
            "frames_per_second": 1,
            "query_prompt": prompts.QUERY,
            "document_prompt": prompts.DOCUMENT,
        }


@dataclasses.dataclass(frozen=True)
class TextPiece:
    ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ImagePiece:
    patches: np.ndarray  # u8[p,c]
    xy: np.ndarray  # i32[p,2]
    around: tuple[int, int, int]  # begin, placeholder and end ids
    before: tuple[int, ...] = ()  # ids of a video frame's time, which stay or go with it


@dataclasses.dataclass(frozen=True)
class AudioPiece:
    frames: np.ndarray  # f32[t,m]
    per_token: int = 1  # frames of a soft token, as the preprocessor has it: for sizes, before there is a row
    continued: bool = False  # goes on where the sound before it ends

    @property
    def tokens(self) -> int:
        return math.ceil(len(self.frames) / self.per_token)


Piece = TextPiece | ImagePiece | AudioPiece
Input = list[Piece] | None  # None = nothing, which takes no room


def decode(content: Content, preprocessor: Preprocessor, patches: int | None = None) -> list[Piece]:
    """Every part decoded, sampled and cut to soft tokens, in order.

    `patches` is the soft-token budget of each image or page, the preprocessor's own if None; a video frame has the preprocessor's
    own number, or this where it is smaller. Raises media.MediaError for what cannot be decoded and LimitError for what
    is over the limits or what the model does not take.
    """
    check_images(content)
    return [piece for part in content for piece in _decode_part(part, preprocessor, patches)]


def check_images(parts: Iterable[Any]) -> None:
    """Raises LimitError where more than six parts are images."""
    images = sum(isinstance(part, Image) for part in parts)
    if images > MAX_IMAGES:
        raise LimitError(f"{images} images in one input; at most {MAX_IMAGES}: embed them apart")


def _decode_part(part: Part, preprocessor: Preprocessor, patches: int | None) -> list[Piece]:
    around, patches = preprocessor.tokenizer.image, patches or preprocessor.media.image_patches
    match part:
        case Text(text):
            if len(text) > MAX_CHARACTERS:
                raise LimitError(f"a text of {len(text):,} characters; at most {MAX_CHARACTERS:,}: split it")
            return [TextPiece(tuple(preprocessor.tokenizer.encode(text)))]
        case Image(data):
            _check_supported(preprocessor.media.patch_size, "images")
            return [image_piece(media.decode_image(data), patches, around, preprocessor)]
        case Video(data):
            _check_supported(preprocessor.media.patch_size, "video")
            return video_pieces(*media.decode_video(data, MAX_FRAMES), preprocessor, patches)
        case Pdf(data):
            _check_supported(preprocessor.media.patch_size, "PDF")
            return [image_piece(page, patches, around, preprocessor) for page in render_pdf(data)]
        case Audio(data):
            _check_supported(preprocessor.media.audio_frame_size, "audio")
            return audio_pieces(media.decode_audio(data), preprocessor)


def _check_supported(size: int, kind: str) -> None:
    if not size:
        raise LimitError(f"this model takes no {kind}: leave it out, or use a model that takes it")


def image_piece(
    pixels: np.ndarray,
    most: int,
    around: tuple[int, int, int],
    preprocessor: Preprocessor,
    before: tuple[int, ...] = (),
) -> ImagePiece:
    patches, xy = resize_to_patches(pixels, preprocessor.media.patch_size, most)
    side = 1 + int(xy.max())
    if side > preprocessor.media.max_patches_per_side:
        raise LimitError(
            f"an image of {side} patches in a row or column; at most {preprocessor.media.max_patches_per_side}: cut it or give it fewer"
        )
    return ImagePiece(patches, xy, around, before)


def video_pieces(
    frames: np.ndarray, times: Iterable[float], preprocessor: Preprocessor, patches: int | None = None
) -> list[Piece]:
    """Video frames u8[i,h,w,3] and the seconds they are shown at, f[i] -> a Picture each. Raises LimitError."""
    _check_supported(preprocessor.media.patch_size, "video")
    most, around = preprocessor.media.frame_patches, preprocessor.tokenizer.video
    most = min(most, patches or most)
    return [
        image_piece(frame, most, around, preprocessor, _timestamp(at, i > 0, preprocessor))
        for i, (frame, at) in enumerate(zip(frames, times, strict=True))
    ]


def _timestamp(seconds: float, later: bool, preprocessor: Preprocessor) -> tuple[int, ...]:
    """The ids of "mm:ss " before a frame, a space more between it and the frame before; none in a model without."""
    if not preprocessor.media.timestamps:
        return ()
    text = f"{int(seconds // 60):02d}:{int(seconds % 60):02d} "
    return tuple(preprocessor.tokenizer.encode(" " + text if later else text))


def audio_pieces(samples: np.ndarray, preprocessor: Preprocessor) -> list[Piece]:
    """A waveform f32[n] -> its clips in order. Raises media.MediaError where it is too short for a frame."""
    form = preprocessor.media
    size = form.clip_tokens * form.audio_frame_size
    clips = [_frames(samples[start : start + size], form) for start in range(0, len(samples), size)]
    clips = [frames for frames in clips if len(frames)]  # a short last one may have none
    if not clips:
        milliseconds = 1000 * len(samples) / media.SAMPLE_RATE
        raise media.MediaError(f"a sound of {milliseconds:.1f} ms; this model hears 10.1 ms or more: give a longer one")
    return [AudioPiece(frames, form.audio_shape[0], number > 0) for number, frames in enumerate(clips)]


def _frames(samples: np.ndarray, form: MediaFormat) -> np.ndarray:
    return log_mel(samples, form.mel_bins) if form.mel_bins else media.frame_audio(samples, form.audio_frame_size)


def num_tokens(pieces: list[Piece], tokenizer: Tokenizer) -> int:
    """Tokens of the row these pieces make. Raises LimitError above 8,192."""
    total = len(tokenizer.prefix) + sum(map(_tokens, pieces)) + len(tokenizer.suffix)
    if total > MAX_TOKENS:
        raise LimitError(f"an input of {total:,} tokens; at most {MAX_TOKENS:,}: split it or give it less media")
    return total


def _tokens(piece: Piece) -> int:
    match piece:
        case TextPiece(ids):
            return len(ids)
        case ImagePiece():
            return len(piece.before) + 2 + len(piece.xy)
        case AudioPiece():
            return 2 + piece.tokens


def truncate_to(pieces: list[Piece], budget: Budget, tokenizer: Tokenizer) -> list[Piece]:
    """The pieces cut to a training budget: a video to evenly spaced frames, audio and then text at their ends.

    Pieces that fit are given back as they are, the same list.

    Raises LimitError where the media alone do not fit, or the whole is over the limits.
    """
    images, clips = measure(pieces)
    longest = max((piece.tokens for piece in pieces if isinstance(piece, AudioPiece)), default=0)
    within = images <= budget.images and clips <= budget.clips and longest <= budget.frames
    if num_tokens(pieces, tokenizer) <= budget.tokens and within:
        return pieces
    pictures = [piece for piece in pieces if isinstance(piece, ImagePiece)]
    if len(pictures) > budget.images and budget.images and all(p.around == tokenizer.video for p in pictures):
        keep = {id(pictures[i]) for i in np.linspace(0, len(pictures) - 1, budget.images).round().astype(int)}
        pieces = [piece for piece in pieces if not isinstance(piece, ImagePiece) or id(piece) in keep]
    pieces = _truncate_audio(pieces, budget)
    images, clips = measure(pieces)
    over = [
        f"{count} {name} (at most {most})"
        for count, most, name in [(images, budget.images, "images"), (clips, budget.clips, "audio clips")]
        if count > most
    ]
    if over:
        raise LimitError(f"over the task's budget: {', '.join(over)}: raise the budget or drop the record")
    room = budget.tokens - num_tokens([piece for piece in pieces if not isinstance(piece, TextPiece)], tokenizer)
    if room < 0:
        raise LimitError(f"media need {-room} tokens more than the task's {budget.tokens}: raise the budget")
    return truncate_text(pieces, room)


def _truncate_audio(pieces: list[Piece], budget: Budget) -> list[Piece]:
    """Without the last clips of long sounds that are too many, and each of the others within the budget's frames."""
    sounds = [piece for piece in pieces if isinstance(piece, AudioPiece)]
    spare = [id(sound) for sound in sounds if sound.continued][::-1][: max(len(sounds) - budget.clips, 0)]
    cut: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, AudioPiece):
            if id(piece) in spare:
                continue
            piece = dataclasses.replace(piece, frames=piece.frames[: budget.frames * piece.per_token])
        cut.append(piece)
    return cut


def truncate_text(pieces: list[Piece], room: int) -> list[Piece]:
    """The pieces with at most `room` tokens of text, cut at its end."""
    cut: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, TextPiece):
            piece = TextPiece(piece.ids[:room])
            room -= len(piece.ids)
        cut.append(piece)
    return cut


def standard_budget(pieces: list[Piece], tokenizer: Tokenizer) -> Budget:
    """The smallest standard shape that holds an input: everything a power of two, tokens at least 32, so that few
    shapes are compiled."""

    def up(n: int) -> int:
        return 1 << (n - 1).bit_length() if n else 0

    pictures = [len(piece.xy) for piece in pieces if isinstance(piece, ImagePiece)]
    sounds = [piece.tokens for piece in pieces if isinstance(piece, AudioPiece)]
    return Budget(
        tokens=max(TOKENS, up(num_tokens(pieces, tokenizer))),
        images=up(len(pictures)),
        patches=up(max(pictures, default=0)),
        clips=up(len(sounds)),
        frames=up(max(sounds, default=0)),
    )


def measure(pieces: list[Piece]) -> tuple[int, int]:
    """How many images (frames of a video included) and audio clips there are."""
    return sum(isinstance(piece, ImagePiece) for piece in pieces), sum(
        isinstance(piece, AudioPiece) for piece in pieces
    )
