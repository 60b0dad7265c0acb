"""Parts in order -> one row of Inputs: tokens, places for soft tokens, and the media that fill them."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from embed.data import media, prompts
from embed.data.patches import resize_to_patches
from embed.data.records import Audio, Content, Image, Part, Pdf, Text, Video
from embed.data.tokenizer import Tokenizer
from embed.inputs import Inputs

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
    frames: int = 0  # t of each clip, 40 ms each; longer audio is cut in training


@dataclasses.dataclass(frozen=True)
class Layout:
    """How content becomes a row; with the tokenizer's hash it is the input contract that travels with the weights."""

    tokenizer: Tokenizer
    patch: int  # side of a patch in pixels
    image_patches: int  # soft tokens of an image or page at most
    frame_patches: int  # soft tokens of a video frame at most
    audio_frame: int  # samples of one soft token

    def contract(self) -> dict[str, Any]:
        """What an encoder trained with this layout expects, as plain JSON."""
        return {
            "tokenizer": self.tokenizer.hash,
            "patch": self.patch,
            "image_patches": self.image_patches,
            "frame_patches": self.frame_patches,
            "audio_frame": self.audio_frame,
            "sample_rate": media.SAMPLE_RATE,
            "frames_per_second": 1,
            "query_prompt": prompts.QUERY,
            "document_prompt": prompts.DOCUMENT,
            "pooling": "mean",
        }


@dataclasses.dataclass(frozen=True)
class Words:
    ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Picture:
    patches: np.ndarray  # f32[p,c]
    xy: np.ndarray  # i32[p,2]
    around: tuple[int, int, int]  # begin, placeholder and end ids


@dataclasses.dataclass(frozen=True)
class Sound:
    frames: np.ndarray  # f32[t,m]


Piece = Words | Picture | Sound


def decode(content: Content, layout: Layout, patches: int | None = None) -> list[Piece]:
    """Every part decoded, sampled and cut to soft tokens, in order.

    `patches` is the soft-token budget of each image or page, the layout's own if None. Raises media.MediaError for what
    cannot be decoded and LimitError for what is over the limits.
    """
    check_images(content)
    return [piece for part in content for piece in _decode_part(part, layout, patches)]


def check_images(parts: Iterable[Any]) -> None:
    """Raises LimitError where more than six parts are images."""
    images = sum(isinstance(part, Image) for part in parts)
    if images > MAX_IMAGES:
        raise LimitError(f"{images} images in one input; at most {MAX_IMAGES}: embed them apart")


def _decode_part(part: Part, layout: Layout, patches: int | None) -> list[Piece]:
    tokenizer = layout.tokenizer
    patches = patches or layout.image_patches

    def picture(pixels: np.ndarray, most: int, around: tuple[int, int, int]) -> Picture:
        return Picture(*resize_to_patches(pixels, layout.patch, most), around)

    match part:
        case Text(text):
            if len(text) > MAX_CHARACTERS:
                raise LimitError(f"a text of {len(text):,} characters; at most {MAX_CHARACTERS:,}: split it")
            return [Words(tuple(tokenizer.encode(text)))]
        case Image(data):
            return [picture(media.decode_image(data), patches, tokenizer.image)]
        case Video(data):
            frames, _ = media.decode_video(data, MAX_FRAMES)
            return [picture(frame, layout.frame_patches, tokenizer.video) for frame in frames]
        case Pdf(data):
            return [picture(page, patches, tokenizer.image) for page in media.render_pdf(data)]
        case Audio(data):
            return [Sound(media.frame_audio(media.decode_audio(data), layout.audio_frame))]


def length(pieces: list[Piece], tokenizer: Tokenizer) -> int:
    """Tokens of the row these pieces make. Raises LimitError above 8,192."""
    sizes = [
        len(piece.ids)
        if isinstance(piece, Words)
        else 2 + len(piece.xy if isinstance(piece, Picture) else piece.frames)
        for piece in pieces
    ]
    total = len(tokenizer.prefix) + sum(sizes) + len(tokenizer.suffix)
    if total > MAX_TOKENS:
        raise LimitError(f"an input of {total:,} tokens; at most {MAX_TOKENS:,}: split it or give it less media")
    return total


def fit(pieces: list[Piece], budget: Budget, tokenizer: Tokenizer) -> list[Piece]:
    """The pieces cut to a training budget: a video to evenly spaced frames, audio and then text at their ends.

    Raises LimitError where the media alone do not fit, or the whole is over the limits.
    """
    length(pieces, tokenizer)
    pictures = [piece for piece in pieces if isinstance(piece, Picture)]
    if len(pictures) > budget.images and budget.images and all(p.around == tokenizer.video for p in pictures):
        keep = {id(pictures[i]) for i in np.linspace(0, len(pictures) - 1, budget.images).round().astype(int)}
        pieces = [piece for piece in pieces if not isinstance(piece, Picture) or id(piece) in keep]
    pieces = [Sound(piece.frames[: budget.frames]) if isinstance(piece, Sound) else piece for piece in pieces]
    over = [
        f"{count} {name} (at most {most})"
        for count, most, name in [
            (sum(isinstance(piece, Picture) for piece in pieces), budget.images, "images"),
            (sum(isinstance(piece, Sound) for piece in pieces), budget.clips, "audio clips"),
        ]
        if count > most
    ]
    if over:
        raise LimitError(f"over the task's budget: {', '.join(over)}: raise the budget or drop the record")
    room = budget.tokens - length([piece for piece in pieces if not isinstance(piece, Words)], tokenizer)
    if room < 0:
        raise LimitError(f"media need {-room} tokens more than the task's {budget.tokens}: raise the budget")
    return cut_text(pieces, room)


def cut_text(pieces: list[Piece], room: int) -> list[Piece]:
    """The pieces with at most `room` tokens of text, cut at its end."""
    cut: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Words):
            piece = Words(piece.ids[:room])
            room -= len(piece.ids)
        cut.append(piece)
    return cut


def standard_budget(pieces: list[Piece], tokenizer: Tokenizer) -> Budget:
    """The smallest standard shape that holds an input: everything a power of two, tokens at least 32, so that few
    shapes are compiled."""

    def up(n: int) -> int:
        return 1 << (n - 1).bit_length() if n else 0

    pictures = [len(piece.xy) for piece in pieces if isinstance(piece, Picture)]
    sounds = [len(piece.frames) for piece in pieces if isinstance(piece, Sound)]
    return Budget(
        tokens=max(TOKENS, up(length(pieces, tokenizer))),
        images=up(len(pictures)),
        patches=up(max(pictures, default=0)),
        clips=up(len(sounds)),
        frames=up(max(sounds, default=0)),
    )


def empty(budget: Budget, layout: Layout) -> Inputs:
    """A row of padding, without the row axis."""
    l, i, p = budget.tokens, budget.images, budget.patches
    return Inputs(
        tokens=np.full(l, layout.tokenizer.pad, np.int32),
        segments=np.zeros(l, np.int32),
        positions=np.zeros(l, np.int32),
        slots=np.full(l, -1, np.int32),
        patches=np.zeros((i, p, 3 * layout.patch**2), np.float32),
        patch_xy=np.full((i, p, 2), -1, np.int32),
        audio=np.zeros((budget.clips, budget.frames, layout.audio_frame), np.float32),
        audio_mask=np.zeros((budget.clips, budget.frames), bool),
    )


def row(pieces: list[Piece], budget: Budget, layout: Layout) -> Inputs:
    """One input as a row of one segment, without the row axis; the pieces must fit (see `fit`)."""
    tokenizer, out = layout.tokenizer, empty(budget, layout)
    ids: list[int] = list(tokenizer.prefix)
    slots: list[int] = [-1] * len(ids)
    image = clip = 0
    for piece in pieces:
        match piece:
            case Words(words):
                ids += words
                slots += [-1] * len(words)
                continue
            case Picture(patches, xy, around):
                out.patches[image, : len(patches)] = patches
                out.patch_xy[image, : len(xy)] = xy
                first, count, image = image * budget.patches, len(xy), image + 1
            case Sound(frames):
                out.audio[clip, : len(frames)] = frames
                out.audio_mask[clip, : len(frames)] = True
                first = budget.images * budget.patches + clip * budget.frames
                count, clip, around = len(frames), clip + 1, tokenizer.audio
        ids += [around[0], *[around[1]] * count, around[2]]
        slots += [-1, *range(first, first + count), -1]
    ids += tokenizer.suffix
    slots += [-1] * len(tokenizer.suffix)
    n = len(ids)
    out.tokens[:n], out.slots[:n] = ids, slots
    out.segments[:n], out.positions[:n] = 1, np.arange(n)
    return out


def stack(rows: list[Inputs], budget: Budget, layout: Layout) -> Inputs:
    """Rows -> Inputs with the row axis; no rows give zero rows of the budget's shape."""
    if not rows:
        return Inputs(**{k: v[None][:0] for k, v in vars(empty(budget, layout)).items()})
    return Inputs(**{name: np.stack([getattr(r, name) for r in rows]) for name in vars(rows[0])})
