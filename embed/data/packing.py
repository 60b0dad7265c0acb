"""Inputs of different lengths, several to a row: what would be padding is other inputs.

Pairs are packed in groups of fixed size, each into rows of its own, so where an input lies depends on its group alone:
not on hosts, devices or the batch around it. The two sides of a group, and the vectors of its pairs, are on one device.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from embed.batch import Inputs, PackedIndices
from embed.data.budget import Budget, Input, count_media, num_tokens
from embed.data.collate import make_packed_rows
from embed.data.pieces import Piece
from embed.data.preprocess import Preprocessor

OVERFLOWED = -1  # the place of what found no room


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """What one side of a group is packed into; hard negatives lie with the targets."""

    count: int  # rows of a group
    max_segments: int  # s, inputs of a row at most
    budget: Budget  # of a row, whose images and clips all its inputs share


@dataclasses.dataclass(frozen=True)
class Packing:
    """How a task's pairs are packed. An input that finds no room is left out with its pair, and counted."""

    group: int  # pairs of a group; the larger, the less its length varies, and the fuller its rows can be
    query: PackedRows
    target: PackedRows


def pack(
    inputs: Sequence[Input], rows: PackedRows, preprocessor: Preprocessor
) -> tuple[list[list[list[Piece]]], np.ndarray]:
    """What lies in each row of one side of a group, and where each input is: i32[n], row · max_segments + its number in the
    row, or LOST.

    The longest first, each where it leaves least room (best fit decreasing); of equals the first first.
    """
    places = assign(np.array([measure_input(pieces, preprocessor) for pieces in inputs]), rows)
    max_segments: list[list[list[Piece]]] = [[] for _ in range(rows.count)]
    for i in np.argsort(places):
        if (pieces := inputs[i]) is not None and places[i] != OVERFLOWED:
            max_segments[places[i] // rows.max_segments].append(pieces)
    return max_segments, places


def measure_input(pieces: Input, preprocessor: Preprocessor) -> tuple[int, int, int]:
    """Tokens, images and clips that an input takes of its row."""
    return (0, 0, 0) if pieces is None else (num_tokens(pieces, preprocessor.tokenizer), *count_media(pieces))


def assign(needed: np.ndarray, rows: PackedRows) -> np.ndarray:
    """The places of inputs that need i32[n,3] (see `measure_input`): i32[n], 0 for nothing. What `pack` goes by."""
    room = np.tile([rows.budget.tokens, rows.budget.images, rows.budget.clips, rows.max_segments], (rows.count, 1))
    needed = np.concatenate([needed, np.ones_like(needed[:, :1])], axis=1)
    places = np.zeros(len(needed), np.int32)
    for i in np.argsort(-needed[:, 0], kind="stable"):
        if not needed[i, 0]:
            continue
        fitting = np.flatnonzero((needed[i] <= room).all(axis=1))
        if not len(fitting):
            places[i] = OVERFLOWED
            continue
        best = fitting[np.argmin(room[fitting, 0])]
        places[i] = best * rows.max_segments + rows.max_segments - room[best, 3]
        room[best] -= needed[i]
    return places


def fit_rows(needed: np.ndarray, inputs: int, count: int, patches: int = 0, frames: int = 0) -> PackedRows:
    """Rows for groups of `inputs` inputs like a sample's, which need i32[n,3] (see `measure_input`): `count` rows as small as
    they can be with at most three inputs in 1,000 left out, in 100 groups drawn from the sample.

    They start at what an average group needs. Then, as long as too many are left out, grows by a fiftieth what leaves
    out the fewest: the tokens (a multiple of eight), the images, the clips or the segments.
    """
    rng = np.random.default_rng(0)
    groups = [needed[rng.integers(len(needed), size=inputs)] for _ in range(100)]
    mean = np.mean([group.sum(axis=0) for group in groups], axis=0) / count
    most = [*needed.max(axis=0), min(inputs, math.ceil(4 * inputs / count))]
    size = np.maximum(most, [*np.ceil(mean), 1]).astype(int)
    size[0] = _up(size[0])
    steps = np.diag(np.maximum(size // 50, 1))[size > 0]
    steps[0, 0] = _up(steps[0, 0])

    def rows(tokens: int, images: int, clips: int, max_segments: int) -> PackedRows:
        budget = Budget(tokens, images, patches if images else 0, clips, frames if clips else 0)
        return PackedRows(count, max_segments, budget)

    def left_out(size: np.ndarray) -> float:
        return float(np.mean([assign(group, rows(*size.tolist())) == OVERFLOWED for group in groups]))

    while left_out(size) > 0.003:
        size = min((size + step for step in steps), key=left_out)
    return rows(*size.tolist())


def _up(tokens: float) -> int:
    """To a multiple of eight."""
    return -8 * int(-tokens // 8)


def pack_groups(
    queries: Sequence[Input],
    targets: Sequence[Input],
    negatives: Sequence[Sequence[Input]],
    packing: Packing,
    preprocessor: Preprocessor,
) -> tuple[Inputs, Inputs, PackedIndices]:
    """The rows of all queries and of all targets with their hard negatives, and the places of the pairs' inputs."""
    rows: tuple[list, list] = ([], [])
    found = []
    for start in range(0, len(queries), packing.group):
        own = slice(start, start + packing.group)
        query_rows, query = pack(queries[own], packing.query, preprocessor)
        others = [one for several in negatives[own] for one in several]
        target_rows, there = pack([*targets[own], *others], packing.target, preprocessor)
        target, negative = there[: packing.group], there[packing.group :]
        lost = (
            (query == OVERFLOWED)
            | (target == OVERFLOWED)
            | (negative.reshape(packing.group, -1) == OVERFLOWED).any(axis=1)
        )
        found.append((*(np.maximum(places, 0) for places in (query, target, negative)), lost))
        rows[0].extend(query_rows)
        rows[1].extend(target_rows)
    query_side, target_side = (
        make_packed_rows(made, kind.budget, preprocessor, kind.max_segments)
        for made, kind in zip(rows, (packing.query, packing.target), strict=True)
    )
    query, target, negative, lost = map(np.stack, zip(*found, strict=True))
    return query_side, target_side, PackedIndices(query, target, negative, lost)
