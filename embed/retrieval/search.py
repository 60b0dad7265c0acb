"""Exact nearest neighbours by cosine, in tiles: memory is bounded by a chunk, whatever the size of the corpus.

On a mesh, each device has its share of the queries.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from embed.distributed import mesh
from embed.model.matryoshka import truncate_dim

QUERY_TILE = 1024
CORPUS_TILE = 16_384
SMALLEST_TILE = 128
CHUNK = 16 * CORPUS_TILE  # of a corpus, on the devices at a time
BLOCK = 32  # scores of which the largest is looked at first
SPARE = 54  # candidates beyond k that are scored again
RESCORED = 2**25  # numbers of vectors that are scored again at a time


def top_k(queries: np.ndarray, corpus: np.ndarray, k: int, dtype: Any = jnp.float32) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of every query by dot product: (scores f32[q,k], indices i32[q,k]), best first.

    Exactly those of float64, and of equal scores the lower index first: the devices score in `dtype` (float32, or
    bfloat16 in less time on a TPU) and give more than k; the host scores these again, and where something that was not
    given might belong among the first k, by the error that the scores can have, it asks for more.

    k is clipped to the size of the corpus: the result may be narrower. Of the corpus, which may be a file (np.memmap),
    a chunk is in memory at a time. Raises ValueError for k < 1, an empty corpus, unequal widths, and vectors that are
    not finite (a NaN would rank first everywhere). On many hosts all must call this, with the same vectors, and all get
    the whole result.
    """
    _check(queries, corpus, k)
    queries = _finite(queries, "queries")
    k, n = min(k, len(corpus)), len(corpus)
    scores, indices = np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int32)
    open_, pool = np.arange(len(queries)), min(n, k + SPARE)
    while len(open_):
        rough, found, error = candidates(queries[open_], corpus, pool, dtype)
        exact, order = rescore_fp64(queries[open_], corpus, found)
        scores[open_], indices[open_] = exact[:, :k], order[:, :k]
        # What was not given scores `rough[:, -1]` at most, and so much more in truth.
        unsure = (exact[:, k - 1] <= rough[:, -1].astype(np.float64) + error) & (pool < n) & (error > 0)
        open_, pool = open_[unsure], min(n, 8 * pool)
    return scores, indices


def two_stage_top_k(
    queries: np.ndarray, corpus: np.ndarray, short: np.ndarray, k: int, keep: int, dtype: Any = jnp.float32
) -> tuple[np.ndarray, np.ndarray]:
    """`top_k` among the `keep` candidates that are best by their first numbers (Matryoshka): `short` f32[n,w], made
    once by `truncate(corpus, w)`. Fewer operations, not exact: how many it finds, benchmarks/search.py measures.

    Raises ValueError as `top_k` does, and where fewer than k are kept or `short` is not of the corpus.
    """
    _check(queries, corpus, k)
    if keep < k or len(short) != len(corpus):
        raise ValueError(f"{keep} kept for the best {k}; {len(short)} short vectors of {len(corpus)}")
    queries = _finite(queries, "queries")
    _, found, _ = candidates(truncate_dim(queries, short.shape[1]), short, min(keep, len(corpus)), dtype)
    scores, indices = rescore_fp64(queries, corpus, found)
    return scores[:, :k].astype(np.float32), indices[:, :k]


def candidates(
    queries: np.ndarray, corpus: np.ndarray, k: int, dtype: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best by the devices' scores: f32[q,k], i32[q,k], and how far a score can be from the truth, f64[q]."""
    n, longest = len(corpus), 0.0
    rows, columns = _tile(len(queries), QUERY_TILE), _tile(n, CORPUS_TILE)
    scores, indices = np.full((len(queries), k), -np.inf, np.float32), np.zeros((len(queries), k), np.int32)
    with jax.set_mesh(mesh.current_mesh()):
        parts = mesh.local_batch_shards()[1]
        rows = -(-rows // parts) * parts
        for first in range(0, n, CHUNK):
            chunk = np.asarray(corpus[first : first + CHUNK], np.float32)
            tiles, norms = [], []
            for i in range(0, len(chunk), columns):
                tile, norm = cast_tile(mesh.replicate(_padded(chunk[i : i + columns], columns)), dtype)
                tiles.append(tile)
                norms.append(norm)
            longest = float(np.max([longest, *map(float, norms)]))  # not Python's max, which passes over a NaN
            if not np.isfinite(longest):
                _finite(chunk, "corpus")
            for top in range(0, len(queries), rows):
                own = slice(top, min(top + rows, len(queries)))
                block, *best = (mesh.shard_rows(_padded(one[own], rows)) for one in (queries, scores, indices))
                for number, tile in enumerate(tiles):
                    best = _merge(tuple(best), block.astype(dtype), tile, first + number * columns, n)
                scores[own], indices[own] = (mesh.to_host(found)[: own.stop - top] for found in best)
    # Higham, Accuracy and Stability of Numerical Algorithms, (3.5), whatever the order of the sum; and two roundings.
    unit, single = float(jnp.finfo(dtype).eps) / 2, float(jnp.finfo(jnp.float32).eps) / 2
    rounding = 0.0 if dtype == jnp.float32 else 2 * unit + unit**2
    return scores, indices, (rounding + 1.01 * queries.shape[1] * single) * longest * _norms(queries)


def rescore_fp64(queries: np.ndarray, corpus: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Candidates i32[q,k] by their scores in float64, the lower index first of equal ones: f64[q,k], i32[q,k]."""
    scores = np.zeros(found.shape)
    rows = max(RESCORED // (found.shape[1] * queries.shape[1]), 1)
    found = np.sort(found, axis=1)
    for top in range(0, len(queries), rows):
        own = slice(top, top + rows)
        vectors = np.asarray(corpus[found[own]], np.float64)
        scores[own] = np.einsum("qke,qe->qk", vectors, queries[own].astype(np.float64))
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(found, order, axis=1)


def _norms(vectors: np.ndarray) -> np.ndarray:
    """f32[n,e] -> f32[n], a little more than the norms; not finite where a vector is not."""
    return np.sqrt(1.001 * np.einsum("ne,ne->n", vectors, vectors))


def _check(queries: np.ndarray, corpus: np.ndarray, k: int) -> None:
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1]:
        raise ValueError(f"queries [q,e] and corpus [n,e] must have one width, got {queries.shape} and {corpus.shape}")
    if k < 1 or not len(corpus):
        raise ValueError(f"need k >= 1 and a corpus, got k = {k} and {len(corpus)} candidates")


def _finite(vectors: np.ndarray, name: str) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    if not np.isfinite(_norms(vectors)).all() and (bad := int((~np.isfinite(vectors).all(axis=1)).sum())):
        raise ValueError(f"{bad} of {len(vectors)} {name} vectors are not finite")
    return vectors


@functools.partial(jax.jit, static_argnums=1)
def cast_tile(tile: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """A tile in the dtype of scores, and a little more than its largest norm: not finite where a vector is not."""
    return tile.astype(dtype), jnp.sqrt(1.001 * jnp.max(jnp.sum(jnp.square(tile), axis=1)))


@functools.partial(jax.jit, donate_argnums=0)
def _merge(best: tuple, queries: jax.Array, tile: jax.Array, start: int, n: int) -> tuple[jax.Array, jax.Array]:
    """The best k of those so far and of a tile of candidates start..; those past n are padding."""
    scores = jnp.einsum(
        "qe,ne->qn", queries, tile, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
    index = start + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1, out_sharding=mesh.EMBEDDINGS)
    scores = jnp.where(index < n, scores, -jnp.inf)
    k, blocks = best[0].shape[1], scores.shape[1] // BLOCK
    if 2 * k < blocks:
        # The k best are in the k blocks with the largest maxima. In the order of their indices, because lax.top_k keeps
        # the earlier of equal values: ties then need nothing else, here and between blocks.
        scores, index = (rearrange(one, "q (n b) -> q n b", b=BLOCK) for one in (scores, index))
        chosen = jnp.sort(jax.lax.top_k(scores.max(axis=2), k)[1], axis=1)
        scores, index = (jnp.take_along_axis(one, chosen[:, :, None], axis=1) for one in (scores, index))
        scores, index = (rearrange(one, "q n b -> q (n b)") for one in (scores, index))
    scores, at = jax.lax.top_k(jnp.concatenate([best[0], scores], axis=1), k)
    return scores, jnp.take_along_axis(jnp.concatenate([best[1], index], axis=1), at, axis=1)


def _tile(count: int, largest: int) -> int:
    """A power of two that holds `count` rows where it can: few shapes to compile."""
    return min(largest, max(SMALLEST_TILE, 1 << (count - 1).bit_length()))


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    return rows if len(rows) == count else np.pad(rows, ((0, count - len(rows)), (0, 0)))
