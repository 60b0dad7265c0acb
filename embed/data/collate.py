"""Pieces -> rows of Inputs: token ids, which soft token each stands for, and the media behind the soft tokens."""

import math
from collections.abc import Sequence

import numpy as np

from embed.batch import PAD_ID, Inputs, MediaFormat
from embed.data.budget import Budget, Input
from embed.data.pieces import AudioPiece, ImagePiece, Piece, TextPiece
from embed.data.preprocess import Preprocessor


def make_padding_rows(rows: int, budget: Budget, media: MediaFormat, max_segments: int = 1) -> Inputs:
    """Make rows of padding (numpy); without images where the model takes none, whatever the budget."""
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
    """Make a row of each input (numpy); None becomes padding. The inputs must fit the budget (`truncate_to`)."""
    return make_packed_rows([[] if pieces is None else [pieces] for pieces in inputs], budget, preprocessor)


def make_packed_rows(
    packed: Sequence[Sequence[list[Piece]]], budget: Budget, preprocessor: Preprocessor, max_segments: int = 1
) -> Inputs:
    """Make rows of several inputs each (numpy), at most `max_segments`; every input is a segment of its row."""
    rows = make_padding_rows(len(packed), budget, preprocessor.media, max_segments)
    for row, inputs in enumerate(packed):
        _fill(rows, row, inputs, preprocessor)
    return rows


def _fill(rows: Inputs, row: int, inputs: Sequence[list[Piece]], preprocessor: Preprocessor) -> None:
    """Write inputs into one row. Soft tokens are numbered through the row's images, then through its clips."""
    tokenizer = preprocessor.tokenizer
    per_token = preprocessor.media.audio_shape[0]
    num_images, patches_per_image = rows.patches.shape[1:3]
    tokens_per_clip = rows.audio.shape[2] // per_token
    start = image = clip = 0
    for segment, pieces in enumerate(inputs, start=1):
        ids: list[int] = list(tokenizer.prefix)
        soft_token_index: list[int] = [-1] * len(ids)
        for piece in pieces:
            match piece:
                case TextPiece(text_ids):
                    ids += text_ids
                    soft_token_index += [-1] * len(text_ids)
                    continue
                case ImagePiece(patches, xy, delimiters, prefix_ids):
                    rows.patches[row, image, : len(patches)] = patches
                    rows.patch_xy[row, image, : len(xy)] = xy
                    first, count = image * patches_per_image, len(xy)
                    image += 1
                case AudioPiece(frames):
                    rows.audio[row, clip, : len(frames)] = frames
                    rows.audio_mask[row, clip, : len(frames)] = True
                    first = num_images * patches_per_image + clip * tokens_per_clip
                    count = math.ceil(len(frames) / per_token)
                    delimiters, prefix_ids = tokenizer.audio, ()
                    clip += 1
            begin, placeholder, end = delimiters
            ids += [*prefix_ids, begin, *[placeholder] * count, end]
            soft_token_index += [*[-1] * (len(prefix_ids) + 1), *range(first, first + count), -1]
        ids += tokenizer.suffix
        soft_token_index += [-1] * len(tokenizer.suffix)
        span = slice(start, start + len(ids))
        rows.tokens[row, span] = ids
        rows.soft_token_index[row, span] = soft_token_index
        rows.segments[row, span] = segment
        rows.positions[row, span] = np.arange(len(ids))
        start += len(ids)
