import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embed.distributed import mesh
from embed.model.matryoshka import truncate_dim
from embed.retrieval import search


def reference(queries: np.ndarray, corpus: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """float64, sorted whole; numpy's stable sort keeps the lower index of equal scores first."""
    scores = queries.astype(np.float64) @ corpus.astype(np.float64).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def unit(rng: np.random.Generator, n: int, e: int) -> np.ndarray:
    return truncate_dim(rng.normal(size=(n, e)).astype(np.float32), e)


@pytest.mark.parametrize("q, n, k", [(1, 1, 1), (7, 300, 10), (70, 129, 129), (130, 1000, 5), (3, 128, 1)])
def test_equals_float64(monkeypatch, q, n, k):
    monkeypatch.setattr(search, "QUERY_TILE", 64)
    monkeypatch.setattr(search, "CORPUS_TILE", 128)
    monkeypatch.setattr(search, "SMALLEST_TILE", 8)
    monkeypatch.setattr(search, "CHUNK", 384)
    rng = np.random.default_rng(q * n)
    queries, corpus = unit(rng, q, 48), unit(rng, n, 48)
    scores, indices = search.top_k(queries, corpus, k)
    wanted, order = reference(queries, corpus, k)
    assert scores.dtype == np.float32 and indices.dtype == np.int32 and scores.shape == indices.shape == (q, k)
    np.testing.assert_allclose(scores, wanted, atol=1e-6)
    np.testing.assert_array_equal(indices, order)


@pytest.mark.parametrize("tile", [32, 64, 16_384])
def test_ties_take_the_lower_index(monkeypatch, tile):
    """Small integers are exact in float32, so equal scores are equal, across tiles too."""
    monkeypatch.setattr(search, "CORPUS_TILE", tile)
    monkeypatch.setattr(search, "SMALLEST_TILE", 32)
    rng = np.random.default_rng(0)
    queries, corpus = (rng.integers(-1, 2, size=(n, 6)).astype(np.float32) for n in (20, 500))
    _, indices = search.top_k(queries, corpus, 50)
    np.testing.assert_array_equal(indices, reference(queries, corpus, 50)[1])


def test_duplicates_of_real_vectors_stay_in_order(monkeypatch):
    monkeypatch.setattr(search, "CORPUS_TILE", 128)
    rng = np.random.default_rng(1)
    corpus = np.tile(unit(rng, 100, 64), (5, 1))
    scores, indices = search.top_k(corpus[:100], corpus, 5)
    np.testing.assert_array_equal(indices, np.arange(100)[:, None] + 100 * np.arange(5))
    np.testing.assert_array_equal(scores, np.repeat(scores[:, :1], 5, axis=1))


@pytest.mark.parametrize("case", range(100))
def test_the_best_are_those_of_float64(monkeypatch, case):
    """Random sizes and kinds: real numbers, small integers with many ties, copies, and vectors a rounding apart."""
    monkeypatch.setattr(search, "CORPUS_TILE", 256)
    monkeypatch.setattr(search, "SMALLEST_TILE", 128)
    monkeypatch.setattr(search, "CHUNK", 512)
    monkeypatch.setattr(search, "BLOCK", 4)
    monkeypatch.setattr(search, "SPARE", 3)
    rng = np.random.default_rng(case)
    q, n, k, e = 8, int(rng.integers(1, 900)), int(rng.choice([1, 5, 20])), 16
    queries, corpus = unit(rng, q, e), unit(rng, n, e)
    kind = case % 4
    if kind == 1:
        queries, corpus = (rng.integers(-1, 2, size=one.shape).astype(np.float32) for one in (queries, corpus))
    elif kind == 2:
        corpus = corpus[rng.integers(n, size=n)]
    elif kind == 3:  # float32 cannot tell many of these apart by their scores
        corpus = corpus[rng.integers(min(n, 9), size=n)] + rng.normal(0, 3e-8, corpus.shape).astype(np.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        scores, indices = search.top_k(queries, corpus, k, dtype)
        wanted, order = reference(queries, corpus, k)
        np.testing.assert_array_equal(indices, order)
        np.testing.assert_allclose(scores, wanted, atol=1e-6)


def test_short_vectors_first_finds_what_they_agree_on():
    rng = np.random.default_rng(4)
    falloff = (1 + np.arange(64, dtype=np.float32)) ** -0.8
    queries, corpus = (truncate_dim(unit(rng, n, 64) * falloff, 64) for n in (50, 2000))
    short = truncate_dim(corpus, 16)
    exact = search.top_k(queries, corpus, 5)
    for one, other in zip(search.two_stage_top_k(queries, corpus, short, 5, 2000), exact, strict=True):
        np.testing.assert_array_equal(one, other)
    recalls = []
    for keep in (5, 7, 200):
        scores, found = search.two_stage_top_k(queries, corpus, short, 5, keep)
        recalls.append(np.mean([len({*a} & {*b}) / 5 for a, b in zip(found.tolist(), exact[1].tolist(), strict=True)]))
        np.testing.assert_allclose(scores, np.einsum("qke,qe->qk", corpus[found], queries), atol=1e-6)
    assert recalls[0] < recalls[1] < recalls[2] and recalls[2] > 0.95
    with pytest.raises(ValueError, match="3 kept for the best 5"):
        search.two_stage_top_k(queries, corpus, short, 5, 3)


def test_k_is_clipped_and_bad_input_refused():
    vectors = np.eye(4, dtype=np.float32)
    assert search.top_k(vectors, vectors, 99)[1].tolist()[2] == [2, 0, 1, 3]
    assert search.top_k(vectors[:0], vectors, 2)[0].shape == (0, 2)
    broken = vectors.copy()
    broken[1, 2] = np.nan
    for bad, message in [
        ((vectors, vectors, 0), "k >= 1"),
        ((vectors, vectors[:0], 1), "0 candidates"),
        ((vectors, vectors[:, :3], 1), "the same dimensions"),
        ((vectors, broken, 1), "1 of 4 corpus vectors are not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            search.top_k(*bad)


def test_truncate():
    rng = np.random.default_rng(2)
    vectors = unit(rng, 50, 32)
    vectors[3] = 0
    vectors[4, :8] = 0
    vectors[5] = 1e-30
    short = truncate_dim(vectors, 8)
    norms = np.linalg.norm(short, axis=1)
    assert short.shape == (50, 8) and short.dtype == np.float32 and np.isfinite(short).all()
    np.testing.assert_allclose(np.delete(norms, [3, 4]), 1, atol=1e-6)
    assert not short[[3, 4]].any()
    for value in (np.nan, np.inf):
        broken = vectors.copy()
        broken[6, 2] = value
        with pytest.raises(ValueError, match="1 of 50 embedding vectors are not finite"):
            truncate_dim(broken, 8)
    np.testing.assert_allclose(
        truncate_dim(vectors, 32),
        vectors
        / np.where(vectors.any(1, keepdims=True), np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True), 1),
        atol=1e-6,
    )
    for width in (0, 33):
        with pytest.raises(ValueError, match="truncate"):
            truncate_dim(vectors, width)


def test_truncated_widths_rank_like_numpy():
    rng = np.random.default_rng(3)
    queries, corpus = unit(rng, 40, 64), unit(rng, 333, 64)
    for width in (64, 32, 16):
        short = [truncate_dim(side, width) for side in (queries, corpus)]
        np.testing.assert_array_equal(search.top_k(*short, 10)[1], reference(*short, 10)[1])


def test_under_the_trainers_mesh():
    with jax.set_mesh(mesh.make_mesh((1, 1, 1), jax.devices()[:1])):
        assert search.top_k(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 1)[1].tolist() == [[0], [1], [2]]
