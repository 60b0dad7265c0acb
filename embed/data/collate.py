"""Pieces -> rows of Inputs: tokens, places for soft tokens, and the media that fill them."""

import math
from collections.abc import Sequence

import numpy as np

from embed.batch import PAD_ID, Inputs, MediaFormat
from embed.data.preprocess import AudioPiece, Budget, ImagePiece, Input, Piece, Preprocessor, TextPiece


def empty_rows(rows: int, budget: Budget, media: MediaFormat, members: int = 1) -> Inputs:
    """Rows of padding (numpy); without images where the model takes none, whatever the budget."""
    b, l, p = rows, budget.tokens, budget.patches
    i = budget.images if media.patch else 0
    per_token, content = media.audio_shape
    clips, frames = budget.clips, budget.frames * per_token
    return Inputs(
        tokens=np.full((b, l), PAD_ID, np.int32),
        segments=np.zeros((b, l), np.int32),
        positions=np.zeros((b, l), np.int32),
        slots=np.full((b, l), -1, np.int32),
        patches=np.zeros((b, i, p, 3 * media.patch**2), np.uint8),
        patch_xy=np.full((b, i, p, 2), -1, np.int32),
        audio=np.zeros((b, clips, frames, content), np.float32),
        audio_mask=np.zeros((b, clips, frames), bool),
        members=members,
    )


def make_rows(inputs: Sequence[Input], budget: Budget, layout: Preprocessor) -> Inputs:
    """One input a row -> Inputs (numpy). They must fit (see `layout.fit`). A row of nothing is padding."""
    return packed_rows([[] if pieces is None else [pieces] for pieces in inputs], budget, layout)


def packed_rows(
    packed: Sequence[Sequence[list[Piece]]], budget: Budget, layout: Preprocessor, members: int = 1
) -> Inputs:
    """For each row the inputs that lie in it side by side, `members` at most, each a segment -> Inputs (numpy)."""
    out = empty_rows(len(packed), budget, layout.media, members)
    for number, inputs in enumerate(packed):
        _fill(out, number, inputs, layout)
    return out


def _fill(out: Inputs, row: int, inputs: Sequence[list[Piece]], layout: Preprocessor) -> None:
    """Writes the inputs into one row of `out`."""
    tokenizer, per_token = layout.tokenizer, layout.media.audio_shape[0]
    images, patches_each = out.patches.shape[1:3]
    frames_each = out.audio.shape[2] // per_token
    start = image = clip = 0
    for segment, pieces in enumerate(inputs, start=1):
        ids: list[int] = list(tokenizer.prefix)
        slots: list[int] = [-1] * len(ids)
        for piece in pieces:
            match piece:
                case TextPiece(words):
                    ids += words
                    slots += [-1] * len(words)
                    continue
                case ImagePiece(patches, xy, around, before):
                    out.patches[row, image, : len(patches)] = patches
                    out.patch_xy[row, image, : len(xy)] = xy
                    first, count, image = image * patches_each, len(xy), image + 1
                case AudioPiece(frames):
                    out.audio[row, clip, : len(frames)] = frames
                    out.audio_mask[row, clip, : len(frames)] = True
                    first = images * patches_each + clip * frames_each
                    count = math.ceil(len(frames) / per_token)
                    clip, around, before = clip + 1, tokenizer.audio, ()
            ids += [*before, around[0], *[around[1]] * count, around[2]]
            slots += [*[-1] * (len(before) + 1), *range(first, first + count), -1]
        ids += tokenizer.suffix
        slots += [-1] * len(tokenizer.suffix)
        here = slice(start, start + len(ids))
        out.tokens[row, here], out.slots[row, here] = ids, slots
        out.segments[row, here], out.positions[row, here] = segment, np.arange(len(ids))
        start += len(ids)
