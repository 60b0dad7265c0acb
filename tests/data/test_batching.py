"""Every input is embedded once, in a row that holds it, on its own shard, with little padding."""

import dataclasses

import numpy as np
import pytest

from embed.data import batching
from embed.data.batching import FEW, MAX_SEGMENTS, MAX_SHARED_TOKENS, ROW_TOKENS, Size, plan_batches
from embed.data.budget import MIN_ROW_TOKENS, Budget


def text(tokens: int) -> Size:
    return Size(tokens, Budget(max(MIN_ROW_TOKENS, 1 << (tokens - 1).bit_length())))


def page(tokens: int) -> Size:
    return dataclasses.replace(text(tokens), budget=dataclasses.replace(text(tokens).budget, images=1, patches=16))


def draw(count: int, longest: int, seed: int = 0) -> list[Size]:
    """Texts of random lengths, and a page after every tenth."""
    lengths = np.random.default_rng(seed).integers(3, longest + 1, count).tolist()
    return [page(tokens) if i % 11 == 10 else text(tokens) for i, tokens in enumerate(lengths)]


@pytest.mark.parametrize("count", [0, 1, FEW, FEW + 3, 700, 2500])
@pytest.mark.parametrize("longest", [5, 40, MAX_SHARED_TOKENS, 400])
@pytest.mark.parametrize("num_shards, max_rows", [(1, 64), (1, 1), (4, 64), (3, 10), (8, 4)])
def test_every_input_is_in_one_row_that_holds_it(count, longest, num_shards, max_rows):
    sizes = draw(count, longest)
    batches = list(plan_batches(sizes, num_shards, max_rows))
    seen = [i for batch in batches for i in batch.segments.tolist() if i >= 0]
    assert sorted(seen) == list(range(count))
    for batch in batches:
        assert len(batch.shards) == num_shards and len({len(rows) for rows in batch.shards}) == 1
        assert len(batch.segments) == sum(map(len, batch.shards)) * batch.max_segments
        assert sum(map(len, batch.shards)) < max_rows + num_shards
        for shard, rows in enumerate(batch.shards):
            for row in rows:
                assert len(row) <= batch.max_segments and all(i % num_shards == shard for i in row)
                assert sum(sizes[i].tokens for i in row) <= batch.budget.tokens
                assert all(dataclasses.replace(batch.budget, tokens=0) == without_tokens(sizes[i]) for i in row)


def without_tokens(size: Size) -> Budget:
    return dataclasses.replace(size.budget, tokens=0)


def test_segments_are_those_of_the_rows():
    for batch in plan_batches(draw(300, 60), 2, 16):
        rows = batch.segments.reshape(-1, batch.max_segments)
        planned = [row for rows in batch.shards for row in rows]
        assert [row[row >= 0].tolist() for row in rows] == planned


@pytest.mark.parametrize("longest, seed", [(12, 0), (40, 1), (128, 2)])
def test_short_texts_leave_little_padding(longest, seed):
    """In rows of their own, of a power of two of tokens, half of the room or more is padding."""
    sizes = [text(n) for n in np.random.default_rng(seed).integers(8, longest + 1, 2000).tolist()]
    batches = list(plan_batches(sizes, 1, 64))
    assert {(batch.budget.tokens, batch.max_segments) for batch in batches} == {(ROW_TOKENS, MAX_SEGMENTS)}
    room = sum(len(batch.shards[0]) * ROW_TOKENS for batch in batches)
    assert sum(size.tokens for size in sizes) > 0.9 * room


def test_few_texts_and_long_ones_have_rows_of_their_own():
    assert {batch.max_segments for batch in plan_batches([text(5)] * FEW, 1, 64)} == {1}
    assert {batch.max_segments for batch in plan_batches([text(MAX_SHARED_TOKENS + 1)] * 50, 1, 64)} == {1}
    assert {batch.max_segments for batch in plan_batches([page(20)] * 50, 1, 64)} == {1}


def test_few_shapes():
    sizes = draw(3000, 128)
    shapes = {(batch.budget, len(batch.shards[0])) for batch in plan_batches(sizes, 1, 64)}
    assert len(shapes) <= 2 * (1 + len({size.budget for size in sizes if size.budget.images}))


def test_batches_shrink_as_rows_grow(monkeypatch):
    monkeypatch.setattr(batching, "MAX_ATTENTION", 2 * MIN_ROW_TOKENS**2)
    batches = plan_batches([text(5)] * 5, 1, 64)
    assert [batch.segments.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]


def test_the_last_rows_make_small_batches_where_those_waste_less():
    rows = [[len(batch.shards[0]) for batch in plan_batches([page(20)] * n, 1, 64)] for n in (64, 65, 90, 97, 120)]
    assert rows == [[64], [64, 8], [64, 8, 8, 8, 8], [64, 64], [64, 64]]
