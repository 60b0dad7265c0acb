"""Sizes of inputs: tokens, images and audio clips of a row; and what is cut so that an input fits its task's rows."""

import dataclasses

import numpy as np

from embed.data.pieces import MAX_TOKENS, AudioPiece, ImagePiece, LimitError, Piece, TextPiece
from embed.data.tokenizer import Tokenizer

MIN_ROW_TOKENS = 32  # of the shortest standard row
Input = list[Piece] | None  # None: padding, a row without an input


@dataclasses.dataclass(frozen=True)
class Budget:
    """The static shape of one side of a task: what a row holds at most."""

    tokens: int  # l
    images: int = 0  # i, video frames included
    patches: int = 0  # p of each image; a larger image is scaled down to it
    clips: int = 0  # a
    frames: int = 0  # soft tokens of each clip, 40 ms each; longer audio is truncated in training


def num_tokens(pieces: list[Piece], tokenizer: Tokenizer) -> int:
    """Count the tokens of the row that the pieces make. Raises LimitError above MAX_TOKENS."""
    total = len(tokenizer.prefix) + sum(map(_piece_tokens, pieces)) + len(tokenizer.suffix)
    if total > MAX_TOKENS:
        raise LimitError(f"input of {total:,} tokens is too long: at most {MAX_TOKENS:,}; split it or give less media")
    return total


def _piece_tokens(piece: Piece) -> int:
    match piece:
        case TextPiece(ids):
            return len(ids)
        case ImagePiece():
            return len(piece.prefix_ids) + 2 + len(piece.xy)
        case AudioPiece():
            return 2 + piece.num_tokens


def count_media(pieces: list[Piece]) -> tuple[int, int]:
    """Count the images (video frames included) and the audio clips."""
    images = sum(isinstance(piece, ImagePiece) for piece in pieces)
    clips = sum(isinstance(piece, AudioPiece) for piece in pieces)
    return images, clips


def truncate_to(pieces: list[Piece], budget: Budget, tokenizer: Tokenizer) -> list[Piece]:
    """Cut pieces to a training budget: a video to evenly spaced frames, audio and then text at their ends.

    Returns the same list where the pieces fit. Raises LimitError where the media alone do not fit the budget, or the
    input is over the limits.
    """
    images, clips = count_media(pieces)
    longest = max((piece.num_tokens for piece in pieces if isinstance(piece, AudioPiece)), default=0)
    media_fit = images <= budget.images and clips <= budget.clips and longest <= budget.frames
    if num_tokens(pieces, tokenizer) <= budget.tokens and media_fit:
        return pieces
    pieces = _drop_frames(pieces, budget, tokenizer)
    pieces = _truncate_audio(pieces, budget)
    images, clips = count_media(pieces)
    over = [
        f"{count} {name} (at most {limit})"
        for count, limit, name in [(images, budget.images, "images"), (clips, budget.clips, "audio clips")]
        if count > limit
    ]
    if over:
        raise LimitError(f"over the task's budget: {', '.join(over)}; raise the budget or drop the record")
    room = budget.tokens - num_tokens([piece for piece in pieces if not isinstance(piece, TextPiece)], tokenizer)
    if room < 0:
        raise LimitError(f"media need {-room} tokens more than the task's {budget.tokens}; raise the budget")
    return truncate_text(pieces, room)


def _drop_frames(pieces: list[Piece], budget: Budget, tokenizer: Tokenizer) -> list[Piece]:
    """Keep evenly spaced frames, as many as the budget has images, where all images are video frames."""
    images = [piece for piece in pieces if isinstance(piece, ImagePiece)]
    is_video = all(image.delimiters == tokenizer.video for image in images)
    if not budget.images or len(images) <= budget.images or not is_video:
        return pieces
    kept = {id(images[i]) for i in np.linspace(0, len(images) - 1, budget.images).round().astype(int)}
    return [piece for piece in pieces if not isinstance(piece, ImagePiece) or id(piece) in kept]


def _truncate_audio(pieces: list[Piece], budget: Budget) -> list[Piece]:
    """Drop the last clips of long audio that are too many, and cut each of the others to the budget's frames."""
    clips = [piece for piece in pieces if isinstance(piece, AudioPiece)]
    dropped = [id(clip) for clip in clips if clip.continued][::-1][: max(len(clips) - budget.clips, 0)]
    truncated: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, AudioPiece):
            if id(piece) in dropped:
                continue
            piece = dataclasses.replace(piece, frames=piece.frames[: budget.frames * piece.per_token])
        truncated.append(piece)
    return truncated


def truncate_text(pieces: list[Piece], room: int) -> list[Piece]:
    """Cut the text at its end, to at most `room` tokens in all."""
    truncated: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, TextPiece):
            piece = TextPiece(piece.ids[:room])
            room -= len(piece.ids)
        truncated.append(piece)
    return truncated


def standard_budget(pieces: list[Piece], tokenizer: Tokenizer) -> Budget:
    """Find the smallest standard shape that holds an input: every size a power of two, so that few shapes compile."""
    patches = [len(piece.xy) for piece in pieces if isinstance(piece, ImagePiece)]
    clip_tokens = [piece.num_tokens for piece in pieces if isinstance(piece, AudioPiece)]
    return Budget(
        tokens=max(MIN_ROW_TOKENS, _next_power_of_two(num_tokens(pieces, tokenizer))),
        images=_next_power_of_two(len(patches)),
        patches=_next_power_of_two(max(patches, default=0)),
        clips=_next_power_of_two(len(clip_tokens)),
        frames=_next_power_of_two(max(clip_tokens, default=0)),
    )


def _next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length() if n else 0
