"""Exact nearest neighbors by dot product, in tiles: memory is bounded by a chunk, whatever the size of the corpus.

On a mesh, queries are sharded over the devices.
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
CHUNK = 16 * CORPUS_TILE  # rows of a corpus on the devices at a time
BLOCK = 32  # scores that share one maximum in the first pass
SPARE = 54  # candidates beyond k that are rescored
RESCORED = 2**25  # elements rescored at a time


def top_k(queries: np.ndarray, corpus: np.ndarray, k: int, dtype: Any = jnp.float32) -> tuple[np.ndarray, np.ndarray]:
    """Find the k best candidates of every query by dot product: (scores f32[q,k], indices i32[q,k]), best first.

    The ranking is exactly that of float64, ties by lower index: the devices score in `dtype` (float32, or the faster
    bfloat16 on a TPU) and return more than k candidates; the host rescores them in float64 and asks for more where,
    within the rounding error, a candidate that was not returned could be among the first k.

    k is clipped to the size of the corpus, so the result may be narrower. One chunk of the corpus, which may be a file
    (np.memmap), is in memory at a time. On many hosts all must call this with the same vectors; all get the whole
    result.

    Raises ValueError for k < 1, an empty corpus, unequal dimensions, and vectors that are not finite (a NaN would rank
    first everywhere).
    """
    _check(queries, corpus, k)
    queries = _finite(queries, "queries")
    k, n = min(k, len(corpus)), len(corpus)
    scores = np.zeros((len(queries), k), np.float32)
    indices = np.zeros((len(queries), k), np.int32)
    unresolved = np.arange(len(queries))
    pool = min(n, k + SPARE)
    while len(unresolved):
        rough, pooled, error = candidates(queries[unresolved], corpus, pool, dtype)
        exact, order = rescore_fp64(queries[unresolved], corpus, pooled)
        scores[unresolved], indices[unresolved] = exact[:, :k], order[:, :k]
        # A candidate outside the pool scores at most `rough[:, -1]`, and exceeds that by at most `error`.
        is_unsure = (exact[:, k - 1] <= rough[:, -1].astype(np.float64) + error) & (pool < n) & (error > 0)
        unresolved = unresolved[is_unsure]
        pool = min(n, 8 * pool)
    return scores, indices


def two_stage_top_k(
    queries: np.ndarray, corpus: np.ndarray, short: np.ndarray, k: int, keep: int, dtype: Any = jnp.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k best among the `keep` candidates that are best by a Matryoshka prefix.

    `short` f32[n,w] is `truncate_dim(corpus, w)`, made once. Fewer FLOPs, but not exact: benchmarks/search.py measures
    the recall. Raises ValueError as `top_k` does, and where keep < k or `short` differs from the corpus in length.
    """
    _check(queries, corpus, k)
    if keep < k or len(short) != len(corpus):
        raise ValueError(f"{keep} kept for the best {k}; {len(short)} short vectors of {len(corpus)}")
    queries = _finite(queries, "queries")
    _, kept, _ = candidates(truncate_dim(queries, short.shape[1]), short, min(keep, len(corpus)), dtype)
    scores, indices = rescore_fp64(queries, corpus, kept)
    return scores[:, :k].astype(np.float32), indices[:, :k]


def candidates(
    queries: np.ndarray, corpus: np.ndarray, k: int, dtype: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the k best by the devices' scores: f32[q,k], i32[q,k], and a bound f64[q] of a score's rounding error."""
    n = len(corpus)
    max_norm = 0.0
    rows = _tile_size(len(queries), QUERY_TILE)
    columns = _tile_size(n, CORPUS_TILE)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    indices = np.zeros((len(queries), k), np.int32)
    with jax.set_mesh(mesh.current_mesh()):
        parts = mesh.local_batch_shards()[1]
        rows = -(-rows // parts) * parts
        for first in range(0, n, CHUNK):
            chunk = np.asarray(corpus[first : first + CHUNK], np.float32)
            tiles = []
            norms = []
            for i in range(0, len(chunk), columns):
                tile, norm = cast_tile(mesh.replicate(_pad_rows(chunk[i : i + columns], columns)), dtype)
                tiles.append(tile)
                norms.append(norm)
            max_norm = float(np.max([max_norm, *map(float, norms)]))  # not Python's max, which ignores a NaN
            if not np.isfinite(max_norm):
                _finite(chunk, "corpus")
            for top in range(0, len(queries), rows):
                part = slice(top, min(top + rows, len(queries)))
                block = mesh.shard_rows(_pad_rows(queries[part], rows)).astype(dtype)
                best = tuple(mesh.shard_rows(_pad_rows(array[part], rows)) for array in (scores, indices))
                for number, tile in enumerate(tiles):
                    best = _merge(best, block, tile, first + number * columns, n)
                scores[part] = mesh.to_host(best[0])[: part.stop - top]
                indices[part] = mesh.to_host(best[1])[: part.stop - top]
    # Higham, Accuracy and Stability of Numerical Algorithms, (3.5), for any order of the sum; and two roundings.
    unit = float(jnp.finfo(dtype).eps) / 2
    single = float(jnp.finfo(jnp.float32).eps) / 2
    rounding = 0.0 if dtype == jnp.float32 else 2 * unit + unit**2
    return scores, indices, (rounding + 1.01 * queries.shape[1] * single) * max_norm * _upper_norms(queries)


def rescore_fp64(queries: np.ndarray, corpus: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort candidates i32[q,k] by their scores in float64, ties by lower index: f64[q,k], i32[q,k]."""
    scores = np.zeros(indices.shape)
    rows = max(RESCORED // (indices.shape[1] * queries.shape[1]), 1)
    indices = np.sort(indices, axis=1)
    for top in range(0, len(queries), rows):
        part = slice(top, top + rows)
        vectors = np.asarray(corpus[indices[part]], np.float64)
        scores[part] = np.einsum("qke,qe->qk", vectors, queries[part].astype(np.float64))
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)


def _upper_norms(vectors: np.ndarray) -> np.ndarray:
    """f32[n,e] -> f32[n], slightly above the norms; not finite where a vector is not."""
    return np.sqrt(1.001 * np.einsum("ne,ne->n", vectors, vectors))


def _check(queries: np.ndarray, corpus: np.ndarray, k: int) -> None:
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1]:
        raise ValueError(
            f"queries [q,e] and corpus [n,e] must have the same dimensions, got {queries.shape} and {corpus.shape}"
        )
    if k < 1 or not len(corpus):
        raise ValueError(f"need k >= 1 and a corpus, got k = {k} and {len(corpus)} candidates")


def _finite(vectors: np.ndarray, name: str) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    if not np.isfinite(_upper_norms(vectors)).all() and (bad := int((~np.isfinite(vectors).all(axis=1)).sum())):
        raise ValueError(f"{bad} of {len(vectors)} {name} vectors are not finite")
    return vectors


@functools.partial(jax.jit, static_argnums=1)
def cast_tile(tile: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Cast a tile to the dtype of scores, and bound its largest norm from above: not finite where a vector is not."""
    return tile.astype(dtype), jnp.sqrt(1.001 * jnp.max(jnp.sum(jnp.square(tile), axis=1)))


@functools.partial(jax.jit, donate_argnums=0)
def _merge(best: tuple, queries: jax.Array, tile: jax.Array, start: int, n: int) -> tuple[jax.Array, jax.Array]:
    """Merge the best k so far with a tile of candidates from index `start`; those from n on are padding."""
    scores = jnp.einsum(
        "qe,ne->qn", queries, tile, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
    index = start + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1, out_sharding=mesh.EMBEDDINGS)
    scores = jnp.where(index < n, scores, -jnp.inf)
    k, blocks = best[0].shape[1], scores.shape[1] // BLOCK
    if 2 * k < blocks:
        # The k best lie in the k blocks with the largest maxima. Blocks stay in order of their indices: lax.top_k keeps
        # the earlier of equal values, which resolves ties inside and between blocks.
        scores = rearrange(scores, "q (n b) -> q n b", b=BLOCK)
        index = rearrange(index, "q (n b) -> q n b", b=BLOCK)
        blocks_kept = jnp.sort(jax.lax.top_k(scores.max(axis=2), k)[1], axis=1)[:, :, None]
        scores = rearrange(jnp.take_along_axis(scores, blocks_kept, axis=1), "q n b -> q (n b)")
        index = rearrange(jnp.take_along_axis(index, blocks_kept, axis=1), "q n b -> q (n b)")
    scores, order = jax.lax.top_k(jnp.concatenate([best[0], scores], axis=1), k)
    return scores, jnp.take_along_axis(jnp.concatenate([best[1], index], axis=1), order, axis=1)


def _tile_size(count: int, largest: int) -> int:
    """A power of two of at least `count` rows, up to `largest`, so that few shapes are compiled."""
    return min(largest, max(SMALLEST_TILE, 1 << (count - 1).bit_length()))


def _pad_rows(rows: np.ndarray, count: int) -> np.ndarray:
    return rows if len(rows) == count else np.pad(rows, ((0, count - len(rows)), (0, 0)))
