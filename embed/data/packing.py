"""Packing: several inputs of different lengths share a row, so that other inputs take the place of padding.

Pairs are packed in groups of fixed size, each into rows of its own, so where an input lies depends on its group alone:
not on hosts, devices or the rest of the batch. Both sides of a group, and the vectors of its pairs, are on one device.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from embed.batch import Inputs, PackedIndices
from embed.data.budget import Budget, Input, count_media, num_tokens
from embed.data.collate import make_packed_rows
from embed.data.pieces import Piece
from embed.data.preprocess import Preprocessor

OVERFLOWED = -1  # the index of an input that fits in no row
MAX_OVERFLOW = 0.003  # share of the inputs, for rows that `fit_rows` chooses


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """The rows that one side of a group is packed into; hard negatives lie with the targets."""

    count: int  # rows per group
    max_segments: int  # s, inputs per row at most
    budget: Budget  # of a row, whose images and clips all its inputs share


@dataclasses.dataclass(frozen=True)
class Packing:
    """How a task's pairs are packed. A pair with an input that fits in no row is skipped and counted."""

    group: int  # pairs per group; larger groups vary less in length, so that their rows can be fuller
    query: PackedRows
    target: PackedRows


def pack(
    inputs: Sequence[Input], rows: PackedRows, preprocessor: Preprocessor
) -> tuple[list[list[list[Piece]]], np.ndarray]:
    """Pack one side of a group: the inputs of each row, and i32[n] where each input lies.

    An index is row · max_segments + the input's number in the row, or OVERFLOWED.
    """
    indices = assign(np.array([measure_input(pieces, preprocessor) for pieces in inputs]), rows)
    packed: list[list[list[Piece]]] = [[] for _ in range(rows.count)]
    for i in np.argsort(indices):
        if (pieces := inputs[i]) is not None and indices[i] != OVERFLOWED:
            packed[indices[i] // rows.max_segments].append(pieces)
    return packed, indices


def measure_input(pieces: Input, preprocessor: Preprocessor) -> tuple[int, int, int]:
    """Count the tokens, images and clips that an input takes of its row."""
    return (0, 0, 0) if pieces is None else (num_tokens(pieces, preprocessor.tokenizer), *count_media(pieces))


def assign(sizes: np.ndarray, rows: PackedRows) -> np.ndarray:
    """Assign inputs of sizes i32[n,3] (`measure_input`) to rows: indices i32[n], 0 for padding.

    Best fit decreasing: the longest first, each to the row where it leaves least room; ties in order.
    """
    room = np.tile([rows.budget.tokens, rows.budget.images, rows.budget.clips, rows.max_segments], (rows.count, 1))
    sizes = np.concatenate([sizes, np.ones_like(sizes[:, :1])], axis=1)
    indices = np.zeros(len(sizes), np.int32)
    for i in np.argsort(-sizes[:, 0], kind="stable"):
        if not sizes[i, 0]:
            continue
        fitting = np.flatnonzero((sizes[i] <= room).all(axis=1))
        if not len(fitting):
            indices[i] = OVERFLOWED
            continue
        row = fitting[np.argmin(room[fitting, 0])]
        indices[i] = row * rows.max_segments + rows.max_segments - room[row, 3]
        room[row] -= sizes[i]
    return indices


def fit_rows(sizes: np.ndarray, inputs: int, count: int, patches: int = 0, frames: int = 0) -> PackedRows:
    """Find the smallest rows for groups of `inputs` inputs, `count` rows per group.

    `sizes` i32[n,3] (`measure_input`) is a sample of the inputs; in 100 groups drawn from it, at most MAX_OVERFLOW of
    the inputs overflow. The search starts at the size of an average group and, while too many overflow, grows what
    lets the fewest overflow by a fiftieth: tokens (in multiples of eight), images, clips or segments; all of them where
    none helps, since best fit can lose an input in a larger row.
    """
    rng = np.random.default_rng(0)
    groups = [sizes[rng.integers(len(sizes), size=inputs)] for _ in range(100)]
    mean = np.mean([group.sum(axis=0) for group in groups], axis=0) / count
    largest = [*sizes.max(axis=0), min(inputs, math.ceil(4 * inputs / count))]
    shape = np.maximum(largest, [*np.ceil(mean), 1]).astype(int)
    shape[0] = _round_up_to_eight(shape[0])
    steps = np.diag(np.maximum(shape // 50, 1))[shape > 0]
    steps[0, 0] = _round_up_to_eight(steps[0, 0])

    def rows_of(shape: np.ndarray) -> PackedRows:
        tokens, images, clips, max_segments = shape.tolist()
        budget = Budget(tokens, images, patches if images else 0, clips, frames if clips else 0)
        return PackedRows(count, max_segments, budget)

    def overflow(shape: np.ndarray) -> float:
        return float(np.mean([assign(group, rows_of(shape)) == OVERFLOWED for group in groups]))

    while (overflowing := overflow(shape)) > MAX_OVERFLOW:
        best = min((shape + step for step in steps), key=overflow)
        shape = best if overflow(best) < overflowing else shape + steps.sum(axis=0)
        shape[3] = min(shape[3], inputs)
    return rows_of(shape)


def _round_up_to_eight(tokens: float) -> int:
    return -8 * int(-tokens // 8)


def pack_groups(
    queries: Sequence[Input],
    targets: Sequence[Input],
    negatives: Sequence[Sequence[Input]],
    packing: Packing,
    preprocessor: Preprocessor,
) -> tuple[Inputs, Inputs, PackedIndices]:
    """Pack pairs group by group: rows of queries, rows of targets with their hard negatives, and the indices."""
    query_rows: list[list[list[Piece]]] = []
    target_rows: list[list[list[Piece]]] = []
    groups = []
    for start in range(0, len(queries), packing.group):
        members = slice(start, start + packing.group)
        rows, query = pack(queries[members], packing.query, preprocessor)
        query_rows += rows
        group_negatives = itertools.chain.from_iterable(negatives[members])
        rows, indices = pack([*targets[members], *group_negatives], packing.target, preprocessor)
        target_rows += rows
        target, negative = np.split(indices, [packing.group])
        negative_overflowed = (negative.reshape(packing.group, -1) == OVERFLOWED).any(axis=1)
        overflowed = (query == OVERFLOWED) | (target == OVERFLOWED) | negative_overflowed
        groups.append(PackedIndices(np.maximum(query, 0), np.maximum(target, 0), np.maximum(negative, 0), overflowed))
    return (
        make_packed_rows(query_rows, packing.query.budget, preprocessor, packing.query.max_segments),
        make_packed_rows(target_rows, packing.target.budget, preprocessor, packing.target.max_segments),
        PackedIndices(
            query=np.stack([group.query for group in groups]),
            target=np.stack([group.target for group in groups]),
            negative=np.stack([group.negative for group in groups]),
            overflowed=np.stack([group.overflowed for group in groups]),
        ),
    )
