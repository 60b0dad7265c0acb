"""Pieces -> rows of Inputs: tokens, places for soft tokens, and the media that fill them."""

import math
from collections.abc import Sequence

import numpy as np

from embed.batch import PAD_ID, Inputs, MediaFormat
from embed.data.budget import Budget, Input
from embed.data.pieces import AudioPiece, ImagePiece, Piece, TextPiece
from embed.data.preprocess import Preprocessor


def make_padding_rows(rows: int, budget: Budget, media: MediaFormat, max_segments: int = 1) -> Inputs:
    """Rows of padding (numpy); without images where the model takes none, whatever the budget."""
    b, l, p = rows, budget.tokens, budget.patches
    i = budget.images if media.patch_size else 0
    per_token, content = media.audio_shape
    clips, frames = budget.clips, budget.frames * per_token
    return Inputs(
        tokens=np.full((b, l), PAD_ID, np.int32),
        segments=np.zeros((b, l), np.int32),
        positions=np.zeros((b, l), np.int32),
        soft_token_index=np.full((b, l), -1, np.int32),
        patches=np.zeros((b, i, p, 3 * media.patch_size**2), np.uint8),
        patch_xy=np.full((b, i, p, 2), -1, np.int32),
        audio=np.zeros((b, clips, frames, content), np.float32),
        audio_mask=np.zeros((b, clips, frames), bool),
        max_segments=max_segments,
    )


def make_rows(inputs: Sequence[Input], budget: Budget, preprocessor: Preprocessor) -> Inputs:
    """One input a row -> Inputs (numpy). They must fit (see `preprocess.truncate_to`). A row of nothing is padding."""
    return make_packed_rows([[] if pieces is None else [pieces] for pieces in inputs], budget, preprocessor)


def make_packed_rows(
    packed: Sequence[Sequence[list[Piece]]], budget: Budget, preprocessor: Preprocessor, max_segments: int = 1
) -> Inputs:
    """For each row the inputs that lie in it side by side, `max_segments` at most, each a segment -> Inputs (numpy)."""
    out = make_padding_rows(len(packed), budget, preprocessor.media, max_segments)
    for number, inputs in enumerate(packed):
        _fill(out, number, inputs, preprocessor)
    return out


def _fill(out: Inputs, row: int, inputs: Sequence[list[Piece]], preprocessor: Preprocessor) -> None:
    """Writes the inputs into one row of `out`."""
    tokenizer, per_token = preprocessor.tokenizer, preprocessor.media.audio_shape[0]
    images, patches_each = out.patches.shape[1:3]
    frames_each = out.audio.shape[2] // per_token
    start = image = clip = 0
    for segment, pieces in enumerate(inputs, start=1):
        ids: list[int] = list(tokenizer.prefix)
        soft_token_index: list[int] = [-1] * len(ids)
        for piece in pieces:
            match piece:
                case TextPiece(words):
                    ids += words
                    soft_token_index += [-1] * len(words)
                    continue
                case ImagePiece(patches, xy, delimiters, prefix_ids):
                    out.patches[row, image, : len(patches)] = patches
                    out.patch_xy[row, image, : len(xy)] = xy
                    first, count, image = image * patches_each, len(xy), image + 1
                case AudioPiece(frames):
                    out.audio[row, clip, : len(frames)] = frames
                    out.audio_mask[row, clip, : len(frames)] = True
                    first = images * patches_each + clip * frames_each
                    count = math.ceil(len(frames) / per_token)
                    clip, delimiters, prefix_ids = clip + 1, tokenizer.audio, ()
            ids += [*prefix_ids, delimiters[0], *[delimiters[1]] * count, delimiters[2]]
            soft_token_index += [*[-1] * (len(prefix_ids) + 1), *range(first, first + count), -1]
        ids += tokenizer.suffix
        soft_token_index += [-1] * len(tokenizer.suffix)
        here = slice(start, start + len(ids))
        out.tokens[row, here], out.soft_token_index[row, here] = ids, soft_token_index
        out.segments[row, here], out.positions[row, here] = segment, np.arange(len(ids))
        start += len(ids)
