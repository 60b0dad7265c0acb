"""Batches of inputs to embed: which inputs share a row, and which rows make a batch.

Every shape is compiled once, so there are few: rows of a power of two of tokens and media, in full or in small batches.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from embed.data.budget import Budget, num_tokens, standard_budget
from embed.data.packing import PackedRows, assign
from embed.data.pieces import Piece
from embed.data.tokenizer import Tokenizer

MAX_ATTENTION = 2**26  # rows times tokens squared of one batch: 64 rows of 1,024 tokens, 1 of 8,192
SMALL_PART = 8  # a small batch has an eighth of a full one's rows
ROW_TOKENS = 256  # of a row that short texts share, so that other texts take the place of padding
MAX_SHARED_TOKENS = 128  # of a text in such a row
MAX_SEGMENTS = 32  # texts in such a row
FEW = 8  # so few short texts have rows of their own
WINDOW = 1024  # texts that are packed together


@dataclasses.dataclass(frozen=True)
class Size:
    """What an input needs of a row."""

    tokens: int
    budget: Budget  # the smallest standard row that holds it

    @property
    def is_short_text(self) -> bool:
        return self.tokens <= MAX_SHARED_TOKENS and self.budget == Budget(self.budget.tokens)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of one shape, as many on each shard. A row is a list of the inputs in it; an empty one is padding."""

    budget: Budget  # of a row
    max_segments: int  # s, inputs per row at most
    shards: list[list[list[int]]]  # the rows of each

    @property
    def segments(self) -> np.ndarray:
        """i32[b·s]: the input in each segment of all shards' rows, -1 where there is none."""
        rows = [row + [-1] * (self.max_segments - len(row)) for rows in self.shards for row in rows]
        return np.array(rows, np.int32).reshape(-1)


def measure(pieces: list[Piece], tokenizer: Tokenizer) -> Size:
    """Return what an input needs. Raises LimitError for one that is over the limits."""
    return Size(num_tokens(pieces, tokenizer), standard_budget(pieces, tokenizer))


def plan_batches(sizes: Sequence[Size], num_shards: int, max_rows: int) -> Iterator[Batch]:
    """Put inputs into batches of at most `max_rows` rows, fewer where they are long; input i is on shard i mod
    `num_shards`.

    Short texts, unless they are few, share rows. Equal sizes give equal batches.
    """
    short = {i for i, size in enumerate(sizes) if size.is_short_text}
    shared = short if len(short) > FEW else set()
    alone: dict[Budget, list[int]] = defaultdict(list)
    for i, size in enumerate(sizes):
        if i not in shared:
            alone[size.budget].append(i)

    def by_shard(inputs: Iterable[int]) -> list[list[int]]:
        shards: list[list[int]] = [[] for _ in range(num_shards)]
        for i in inputs:
            shards[i % num_shards].append(i)
        return shards

    for budget, inputs in alone.items():
        rows = min(max_rows, max(MAX_ATTENTION // budget.tokens**2, 1))
        yield from _cut(budget, 1, [[[i] for i in shard] for shard in by_shard(inputs)], rows)
    tokens = np.array([size.tokens for size in sizes], np.int32)
    packed = [_share_rows(shard, tokens) for shard in by_shard(sorted(shared))]
    # A shared row is as long as four of those that most short texts would have alone.
    yield from _cut(Budget(ROW_TOKENS), MAX_SEGMENTS, packed, max(max_rows // 4, 1))


def _share_rows(texts: Sequence[int], tokens: np.ndarray) -> list[list[int]]:
    """Pack texts into rows, a window of them at a time."""
    rows = []
    for start in range(0, len(texts), WINDOW):
        window = np.array(texts[start : start + WINDOW], np.int32)
        lengths = tokens[window]
        most = 2 * lengths.sum() // ROW_TOKENS + len(window) // MAX_SEGMENTS + 1  # no two rows are half empty
        sizes = np.pad(lengths[:, None], ((0, 0), (0, 2)))  # without images and clips
        indices = assign(sizes, PackedRows(int(most), MAX_SEGMENTS, Budget(ROW_TOKENS)))
        order = np.argsort(indices)
        starts = np.flatnonzero(np.diff(indices[order] // MAX_SEGMENTS)) + 1
        rows += [row.tolist() for row in np.split(window[order], starts)]
    return rows


def _cut(budget: Budget, max_segments: int, shards: list[list[list[int]]], max_rows: int) -> Iterator[Batch]:
    """Cut the rows of all shards into full batches, and the last ones into small batches where those waste less."""
    full = -(-max_rows // len(shards))  # rows of a shard
    small = -(-full // SMALL_PART)
    start, end = 0, max(map(len, shards))
    while start < end:
        size = full if end - start > full // 2 else small
        rows = [shard[start : start + size] for shard in shards]
        yield Batch(budget, max_segments, [some + [[]] * (size - len(some)) for some in rows])
        start += size
