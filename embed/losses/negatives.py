"""Scoring queries against keys: which keys are a query's negatives, and the logsumexp of their logits.

A `NegativeScorer` does this for a whole batch. `gather_and_score` is the one to read: every device holds all keys and
all logits. `ring.ring_score` returns the same numbers in constant memory.
"""

import dataclasses
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import P

from embed.distributed import mesh
from embed.losses.masking import MASKED_LOGIT
from embed.losses.prefixes import prefix_logits


@flax.struct.dataclass
class KeyBatch:
    """Queries, or the targets or hard negatives they are compared with: n rows, w Matryoshka widths.

    The logit of a query and a key at a width is the dot product of their prefixes times both `inv_norm_scale`.
    """

    vector: jax.Array  # [n,e]  not normalized
    inv_norm_scale: jax.Array  # f32[n,w]  1 / norm of each prefix; for queries times `logit_scale`
    false_negative_threshold: jax.Array  # f32[n,w]  candidates with a larger cosine are masked as false negatives
    query_hash: jax.Array  # u32[n,2]  content hash of the pair's query
    content_hash: jax.Array  # u32[n,2]  content hash: of a query's positive; of a key itself
    valid: jax.Array  # bool[n]
    pair_index: jax.Array  # i32[n]  row of the pair in the batch


@flax.struct.dataclass
class QueryBatch(KeyBatch):
    logit_scale: jax.Array  # f32[n]  scale / temperature


@flax.struct.dataclass
class NegativeStats:
    """What the loss needs of the logits: reductions over keys (row) and, of a symmetric loss, over queries (col)."""

    row_lse: jax.Array  # f32[q,w]  logsumexp of the logits of a query's negatives
    num_negatives: jax.Array  # f32[q,w]
    max_logit: jax.Array  # f32[q]  largest of these logits at the widest width
    col_lse: jax.Array  # f32[n,w]  logsumexp of a key's logits with valid queries; MASKED_LOGIT if not symmetric
    col_count: jax.Array  # f32[n,w]  number of queries in it


# (queries, keys, widths, symmetric) -> stats
NegativeScorer = Callable[[QueryBatch, KeyBatch, Sequence[int], bool], NegativeStats]


def negative_masks(queries: QueryBatch, keys: KeyBatch, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the negatives among logits f32[w,q,n]: (query_to_key, key_to_query), bool[w,q,n] each.

    A key is a negative of a query if it is the query's own (a hard negative), or its pair is valid and has another
    query; unless its content equals the query's positive, or its cosine exceeds the false negative threshold.
    """

    def equal(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.all(rearrange(a, "q ... -> q 1 ...") == rearrange(b, "n ... -> 1 n ..."), axis=range(2, a.ndim + 1))

    from_other_query = ~equal(queries.query_hash, keys.query_hash) & rearrange(keys.valid, "n -> 1 n")
    is_candidate = equal(queries.pair_index, keys.pair_index) | from_other_query
    is_negative = rearrange(is_candidate & ~equal(queries.content_hash, keys.content_hash), "q n -> 1 q n")
    cosine = logits / rearrange(queries.logit_scale, "q -> 1 q 1")
    query_to_key = is_negative & (cosine <= rearrange(queries.false_negative_threshold, "q w -> w q 1"))
    key_to_query = is_negative & rearrange(queries.valid, "q -> 1 q 1")
    key_to_query = key_to_query & (cosine <= rearrange(keys.false_negative_threshold, "n w -> w 1 n"))
    return query_to_key, key_to_query


def score_negatives(queries: QueryBatch, keys: KeyBatch, widths: Sequence[int], symmetric: bool) -> NegativeStats:
    """Score every query against every key, with all logits f32[w,q,n] in memory at once."""
    logits = prefix_logits(queries.vector, queries.inv_norm_scale, keys.vector, keys.inv_norm_scale, widths)
    query_to_key, key_to_query = negative_masks(queries, keys, logits)
    key_to_query &= symmetric
    row_logits = jnp.where(query_to_key, logits, MASKED_LOGIT)
    col_logits = jnp.where(key_to_query, logits, MASKED_LOGIT)
    return NegativeStats(
        row_lse=rearrange(jax.nn.logsumexp(row_logits, axis=2), "w q -> q w"),
        num_negatives=rearrange(jnp.sum(query_to_key, axis=2, dtype=jnp.float32), "w q -> q w"),
        max_logit=jnp.max(row_logits[-1], axis=1),
        col_lse=rearrange(jax.nn.logsumexp(col_logits, axis=1), "w n -> n w"),
        col_count=rearrange(jnp.sum(key_to_query, axis=1, dtype=jnp.float32), "w n -> n w"),
    )


def gather_and_score(queries: QueryBatch, keys: KeyBatch, widths: Sequence[int], symmetric: bool) -> NegativeStats:
    """Score every query of the batch against every key of the batch; each device gathers all keys."""
    all_keys = jax.tree.map(lambda leaf: jax.reshard(leaf, P()), keys)
    stats = score_negatives(queries, all_keys, widths, symmetric)
    col_lse = jax.reshard(stats.col_lse, mesh.EMBEDDINGS)
    col_count = jax.reshard(stats.col_count, mesh.EMBEDDINGS)
    return dataclasses.replace(stats, col_lse=col_lse, col_count=col_count)


def score_own_negatives(
    queries: QueryBatch, negatives: KeyBatch, widths: Sequence[int], symmetric: bool
) -> NegativeStats:
    """Score every query against its own h hard negatives alone: rows i·h .. i·h+h-1 of `negatives` are query i's."""
    num_queries = queries.pair_index.shape[0]
    queries, negatives = jax.tree.map(lambda leaf: mesh.split_leading(leaf, num_queries), (queries, negatives))
    stats = jax.vmap(lambda query, keys: score_negatives(query, keys, widths, symmetric))(queries, negatives)
    return jax.tree.map(lambda leaf: leaf[:, 0], stats)
