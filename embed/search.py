"""Exact nearest neighbours by cosine, in tiles: memory is bounded by a chunk, whatever the size of the corpus.

On a mesh, each device has its share of the queries.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from embed import mesh

QUERY_TILE = 1024
CORPUS_TILE = 16_384
SMALLEST_TILE = 128
CHUNK = 16 * CORPUS_TILE  # of a corpus, on the devices at a time


def truncate(vectors: np.ndarray, width: int) -> np.ndarray:
    """f32[n,e] -> f32[n,width]: the Matryoshka prefix at unit norm; a zero prefix stays zero.

    Raises ValueError where width is not in 1..e.
    """
    if not 1 <= width <= vectors.shape[1]:
        raise ValueError(f"cannot truncate vectors of {vectors.shape[1]} numbers to {width}")
    prefix = np.asarray(vectors[:, :width], np.float32)
    norm = np.linalg.norm(prefix.astype(np.float64), axis=1, keepdims=True)  # squares of small floats underflow in f32
    return np.divide(prefix, norm, out=np.zeros_like(prefix), where=norm > 0, casting="same_kind")


def top_k(queries: np.ndarray, corpus: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of every query by dot product: (scores f32[q,k], indices i32[q,k]), best first.

    Of equal scores the lower index comes first. k is clipped to the size of the corpus: the result may be narrower.
    Of the corpus, which may be a file (np.memmap), a chunk is in memory at a time.
    Raises ValueError for k < 1, an empty corpus, unequal widths, and vectors that are not finite (a NaN would rank
    first everywhere). On many hosts all must call this, with the same vectors, and all get the whole result.
    """
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1]:
        raise ValueError(f"queries [q,e] and corpus [n,e] must have one width, got {queries.shape} and {corpus.shape}")
    if k < 1 or not len(corpus):
        raise ValueError(f"need k >= 1 and a corpus, got k = {k} and {len(corpus)} candidates")
    queries = _finite(queries, "queries")
    k, n = min(k, len(corpus)), len(corpus)
    rows, columns = _tile(len(queries), QUERY_TILE), _tile(n, CORPUS_TILE)
    scores, indices = np.full((len(queries), k), -np.inf, np.float32), np.zeros((len(queries), k), np.int32)
    with jax.set_mesh(mesh.present()):
        parts = mesh.lines()[1]
        rows = -(-rows // parts) * parts
        for first in range(0, n, CHUNK):
            chunk = _finite(corpus[first : first + CHUNK], "corpus")
            tiles = [mesh.copied(_padded(chunk[i : i + columns], columns)) for i in range(0, len(chunk), columns)]
            for top in range(0, len(queries), rows):
                own = slice(top, min(top + rows, len(queries)))
                block, *best = (mesh.spread(_padded(one[own], rows)) for one in (queries, scores, indices))
                for number, tile in enumerate(tiles):
                    best = _merge(tuple(best), block, tile, first + number * columns, n)
                scores[own], indices[own] = (mesh.gather(found)[: own.stop - top] for found in best)
    return scores, indices


def _finite(vectors: np.ndarray, name: str) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    if bad := int((~np.isfinite(vectors).all(axis=1)).sum()):
        raise ValueError(f"{bad} of {len(vectors)} {name} vectors are not finite")
    return vectors


@functools.partial(jax.jit, donate_argnums=0)
def _merge(best: tuple, queries: jax.Array, tile: jax.Array, start: int, n: int) -> tuple[jax.Array, jax.Array]:
    """The best k of those so far and of a tile of candidates start..; those past n are padding."""
    scores = jnp.einsum("qe,ne->qn", queries, tile, precision=jax.lax.Precision.HIGHEST)
    index = start + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1, out_sharding=mesh.EMBEDDINGS)
    scores = jnp.where(index < n, scores, -jnp.inf)
    # lax.top_k keeps the earlier of equal values, and those so far have lower indices: ties need nothing else.
    scores, at = jax.lax.top_k(jnp.concatenate([best[0], scores], axis=1), best[0].shape[1])
    return scores, jnp.take_along_axis(jnp.concatenate([best[1], index], axis=1), at, axis=1)


def _tile(count: int, largest: int) -> int:
    """A power of two that holds `count` rows where it can: few shapes to compile."""
    return min(largest, max(SMALLEST_TILE, 1 << (count - 1).bit_length()))


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    return np.pad(rows, ((0, count - len(rows)), (0, 0)))
