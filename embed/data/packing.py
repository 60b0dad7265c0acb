"""Inputs of different lengths, several to a row: what would be padding is other inputs.

Pairs are packed in groups of fixed size, each into rows of its own, so where an input lies depends on its group alone:
not on hosts, devices or the batch around it. The two sides of a group, and the vectors of its pairs, are on one device.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from embed.data.layout import Budget, Layout, Piece, length, packed_row, sizes, stack
from embed.inputs import Inputs, Places

Input = list[Piece] | None  # None = nothing, which takes no room
LOST = -1  # the place of what found no room


@dataclasses.dataclass(frozen=True)
class Rows:
    """What one side of a group is packed into; hard negatives lie with the targets."""

    count: int  # rows of a group
    members: int  # s, inputs of a row at most
    budget: Budget  # of a row, whose images and clips all its inputs share


@dataclasses.dataclass(frozen=True)
class Packing:
    """How a task's pairs are packed. An input that finds no room is left out with its pair, and counted."""

    group: int  # pairs of a group; the larger, the less its length varies, and the fuller its rows can be
    query: Rows
    target: Rows


def pack(inputs: Sequence[Input], rows: Rows, layout: Layout) -> tuple[list[Inputs], np.ndarray]:
    """The rows of one side of a group, and where each input is: i32[n], row · members + its number in the row, or LOST.

    The longest first, each where it leaves least room (best fit decreasing); of equals the first first.
    """
    needs = {i: _needs(pieces, layout) for i, pieces in enumerate(inputs) if pieces is not None}
    room = np.tile([rows.budget.tokens, rows.budget.images, rows.budget.clips, rows.members], (rows.count, 1))
    chosen: list[list[int]] = [[] for _ in range(rows.count)]
    places = np.zeros(len(inputs), np.int32)
    for i in sorted(needs, key=lambda i: -needs[i][0]):
        fitting = np.flatnonzero((needs[i] <= room).all(axis=1))
        if not len(fitting):
            places[i] = LOST
            continue
        best = fitting[np.argmin(room[fitting, 0])]
        places[i] = best * rows.members + len(chosen[best])
        chosen[best].append(i)
        room[best] -= needs[i]
    made = [packed_row([inputs[i] or [] for i in own], rows.budget, layout, rows.members) for own in chosen]
    return made, places


def _needs(pieces: list[Piece], layout: Layout) -> np.ndarray:
    """Tokens, images, clips and one member of a row."""
    return np.array([length(pieces, layout.tokenizer), *sizes(pieces), 1])


def pack_groups(
    queries: Sequence[Input],
    targets: Sequence[Input],
    negatives: Sequence[Sequence[Input]],
    packing: Packing,
    layout: Layout,
) -> tuple[Inputs, Inputs, Places]:
    """The rows of all queries and of all targets with their hard negatives, and the places of the pairs' inputs."""
    rows: tuple[list[Inputs], list[Inputs]] = ([], [])
    found = []
    for start in range(0, len(queries), packing.group):
        own = slice(start, start + packing.group)
        query_rows, query = pack(queries[own], packing.query, layout)
        others = [one for several in negatives[own] for one in several]
        target_rows, there = pack([*targets[own], *others], packing.target, layout)
        target, negative = there[: packing.group], there[packing.group :]
        lost = (query == LOST) | (target == LOST) | (negative.reshape(packing.group, -1) == LOST).any(axis=1)
        found.append((*(np.maximum(places, 0) for places in (query, target, negative)), lost))
        rows[0].extend(query_rows)
        rows[1].extend(target_rows)
    query_side, target_side = (
        stack(made, kind.budget, layout, kind.members)
        for made, kind in zip(rows, (packing.query, packing.target), strict=True)
    )
    query, target, negative, lost = map(np.stack, zip(*found, strict=True))
    return query_side, target_side, Places(query, target, negative, lost)
