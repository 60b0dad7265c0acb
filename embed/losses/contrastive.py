"""The report's contrastive loss with all its masks.

Gemini Embedding 2 (arXiv 2605.27295), Eq. 2-3: for query i with cosine s and temperature t, cross-entropy of the
positive against its own hard negatives and every other target j, except those with an equal query or an equal target
(by content hash), which would be false negatives. The positive enters the denominator exactly once.

A query's positive and its own hard negatives are on its device. What others bring goes through `scorer`: here all at
once (`gather_and_score`, the reference you can read), in embed/losses/ring.py in constant memory.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from itertools import pairwise

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax import P

from embed.batch import REPORT_CANDIDATES, Candidates, Pairs
from embed.distributed import mesh

MASKED_LOGIT = -1e30  # a logit that is not there; finite, so that its gradient is zero and never NaN


@flax.struct.dataclass
class KeyBatch:
    """Queries, or what they are compared with: n rows, w Matryoshka widths.

    The logit of a query and a key at a width is the dot product of their prefixes times both factors.
    """

    vector: jax.Array  # [n,e]         not normalised
    factor: jax.Array  # f32[n,w]      1 / norm of each prefix; a query's times its scale over the temperature
    ceiling: jax.Array  # f32[n,w]     cosine above which a candidate is taken for a false negative
    query_hash: jax.Array  # u32[n,2]  content of the pair's query
    content_hash: jax.Array  # u32[n,2]  of a query, its positive; of a key, itself
    valid: jax.Array  # bool[n]
    pair: jax.Array  # i32[n]          the row of the batch that it belongs to


@flax.struct.dataclass
class QueryBatch(KeyBatch):
    sharp: jax.Array  # f32[n]         scale over the temperature


@flax.struct.dataclass
class NegativeStats:
    """What queries and keys have found in each other."""

    total: jax.Array  # f32[q,w]       logsumexp of a query's logits
    count: jax.Array  # f32[q,w]       how many they are
    best: jax.Array  # f32[q]          the largest one at the widest width
    back: jax.Array  # f32[n,w]        logsumexp of a key's logits against valid queries; EXCLUDED where not asked for
    back_count: jax.Array  # f32[n,w]  how many they are


NegativeScorer = Callable[
    [QueryBatch, KeyBatch, Sequence[int], bool], NegativeStats
]  # at these widths; whether keys look back


def logits(query: jax.Array, factor: jax.Array, key: jax.Array, other: jax.Array, widths: Sequence[int]) -> jax.Array:
    """query [q,e], factor f32[q,w], key [n,e], other f32[n,w] -> f32[w,q,n]. Products over nested prefixes add up."""
    product, found = jnp.float32(0), []
    for start, stop in pairwise([0, *widths]):
        q, k = query[:, start:stop], key[:, start:stop]
        product = product + jnp.einsum("qe,ne->qn", q, k, preferred_element_type=jnp.float32)
        found.append(product)
    return jnp.stack(found) * rearrange(factor, "q w -> w q 1") * rearrange(other, "n w -> w 1 n")


def negative_masks(queries: QueryBatch, keys: KeyBatch, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """bool[w,q,n] twice: which keys a query is compared with, and which queries a key is, at logits f32[w,q,n].

    A key counts where it is the query's own or comes from a valid pair with another query, and is not equal to the
    positive; above the ceiling it does not.
    """

    def equal(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.all(rearrange(a, "q ... -> q 1 ...") == rearrange(b, "n ... -> 1 n ..."), axis=range(2, a.ndim + 1))

    others = ~equal(queries.query_hash, keys.query_hash) & rearrange(keys.valid, "n -> 1 n")
    keep = rearrange(
        (equal(queries.pair, keys.pair) | others) & ~equal(queries.content_hash, keys.content_hash), "q n -> 1 q n"
    )
    cosine = scores / rearrange(queries.sharp, "q -> 1 q 1")
    forth = keep & (cosine <= rearrange(queries.ceiling, "q w -> w q 1"))
    back = keep & rearrange(queries.valid, "q -> 1 q 1") & (cosine <= rearrange(keys.ceiling, "n w -> w 1 n"))
    return forth, back


def score_negatives(queries: QueryBatch, keys: KeyBatch, widths: Sequence[int], columns: bool) -> NegativeStats:
    """What queries and keys find in each other, with all logits at once; `columns` says whether keys look back."""
    scores = logits(queries.vector, queries.factor, keys.vector, keys.factor, widths)
    forth, back = negative_masks(queries, keys, scores)
    back &= columns
    found, column = jnp.where(forth, scores, MASKED_LOGIT), jnp.where(back, scores, MASKED_LOGIT)
    return NegativeStats(
        total=rearrange(jax.nn.logsumexp(found, axis=2), "w q -> q w"),
        count=rearrange(jnp.sum(forth, axis=2, dtype=jnp.float32), "w q -> q w"),
        best=jnp.max(found[-1], axis=1),
        back=rearrange(jax.nn.logsumexp(column, axis=1), "w n -> n w"),
        back_count=rearrange(jnp.sum(back, axis=1, dtype=jnp.float32), "w n -> n w"),
    )


def gather_and_score(queries: QueryBatch, keys: KeyBatch, widths: Sequence[int], columns: bool) -> NegativeStats:
    """Of the whole batch: every device sees every key."""
    everywhere = jax.tree.map(lambda leaf: jax.reshard(leaf, P()), keys)
    found = score_negatives(queries, everywhere, widths, columns)
    back, count = (jax.reshard(x, mesh.EMBEDDINGS) for x in (found.back, found.back_count))
    return dataclasses.replace(found, back=back, back_count=count)


def identity(total: jax.Array, count: jax.Array, positive: jax.Array, sharp: jax.Array) -> jax.Array:
    """The logsumexp of the negatives as it is; what may be in its place is embed/losses/regularizers.py's."""
    return total


def contrastive_loss(
    query: jax.Array,
    target: jax.Array,
    negative: jax.Array,
    pairs: Pairs,
    *,
    temperature: float | jax.Array,
    widths: Sequence[int],
    weights: Sequence[float] | None = None,
    candidates: Candidates = REPORT_CANDIDATES,
    scale: jax.Array | None = None,
    scorer: NegativeScorer = gather_and_score,
    hard_negative_weight: Callable[[NegativeScorer], NegativeScorer] = lambda scorer: scorer,
    negatives_transform: Callable[..., jax.Array] = identity,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean loss over the valid pairs, and over Matryoshka widths with `weights` (equal ones if none are given).

    query [q,e], target [q,e] and negative [q·h,e] (h >= 0) need not be normalised; products are made in their dtype
    and added up in float32. `pairs` gives content hashes and validity; `scale` f32[q] multiplies each query's logits.
    Each width is a loss of its own on renormalised prefixes; all come from one pass. `scorer` is `gather_and_score` or `ring`.
    `hard_negative_weight` changes how hard negatives count (`regularizers.hard_negative_weighting`), `negatives_transform` the
    negatives' logsumexp (`regularizers.debiased`).

    Returns f32[] and metrics of the widest width over valid pairs: `accuracy`, the share of queries whose positive
    beats every candidate; `effective_negatives`, the mean number of candidates left to a query after masking;
    `masked`, the share of the others' targets and of hard negatives that was masked out.
    """
    rows, widths = query.shape[0], tuple(widths)
    h = negative.shape[0] // rows
    weights = [1 / len(widths)] * len(widths) if weights is None else weights
    valid, pair = pairs.valid, jnp.arange(rows, out_sharding=mesh.ROWS)
    query, target, negative = (zero_invalid(x, valid) for x in (query, target, negative))
    scale = jnp.ones_like(query[:, 0], jnp.float32) if scale is None else jax.reshard(scale, mesh.ROWS)
    sharp = jnp.where(valid, scale, 1) / temperature

    unit_query, unit_target = inverse_norms(query, widths), inverse_norms(target, widths)
    cosine = _prefix_products(query, target, widths) * unit_query * unit_target
    positive = cosine * rearrange(sharp, "q -> q 1")
    ceiling = jax.lax.stop_gradient(cosine) + (jnp.inf if candidates.margin is None else candidates.margin)

    factor = unit_query * rearrange(sharp, "q -> q 1")
    queries = QueryBatch(query, factor, ceiling, pairs.query_hash, pairs.target_hash, valid, pair, sharp)
    targets = KeyBatch(target, unit_target, ceiling, pairs.query_hash, pairs.target_hash, valid, pair)
    found = []
    if candidates.in_batch:
        found.append(scorer(queries, targets, widths, candidates.symmetric))
    if h:
        meeting = hard_negative_weight(scorer if candidates.cross_query_hard_negatives else score_own_negatives)
        found.append(meeting(queries, _hard_negative_keys(negative, pairs, targets, widths), widths, False))

    def against(total: jax.Array, count: jax.Array) -> jax.Array:
        return jnp.logaddexp(negatives_transform(total, count, positive, sharp), positive) - positive

    nothing = jnp.full_like(positive, MASKED_LOGIT)
    total = functools.reduce(jnp.logaddexp, (one.total for one in found), nothing)
    count = sum((one.count for one in found), jnp.zeros_like(positive))
    each = against(total, count)
    if candidates.symmetric:
        # The same scores read by column: a target against the queries. The positive joins its column's sum.
        back = (found[0].back, found[0].back_count) if candidates.in_batch else (nothing, jnp.zeros_like(positive))
        each = (each + against(*back)) / 2
    loss = jnp.sum(jnp.asarray(weights, jnp.float32) * mean_over_valid(each, valid))

    best = functools.reduce(jnp.maximum, (one.best for one in found), jnp.full_like(sharp, MASKED_LOGIT))
    offered = jnp.sum(valid) - 1 if candidates.in_batch else 0
    offered += jnp.sum(valid) * h if candidates.cross_query_hard_negatives else h
    metrics = {
        "accuracy": mean_over_valid(positive[:, -1] > best, valid),
        "effective_negatives": mean_over_valid(count[:, -1], valid),
        "masked": 1 - mean_over_valid(count[:, -1], valid) / jnp.maximum(offered, 1),
    }
    return loss, metrics


def inverse_norms(x: jax.Array, widths: Sequence[int]) -> jax.Array:
    """[n,e] -> f32[n,w]: 1 / norm of every prefix."""
    return jax.lax.rsqrt(jnp.maximum(_prefix_products(x, x, widths), 1e-24))


def _prefix_products(a: jax.Array, b: jax.Array, widths: Sequence[int]) -> jax.Array:
    """a [n,e], b [n,e] -> f32[n,w]: row by row, the dot product of every prefix."""
    product = a.astype(jnp.float32) * b.astype(jnp.float32)
    sums = [jnp.sum(product[:, start:stop], axis=1) for start, stop in pairwise([0, *widths])]
    return jnp.cumsum(jnp.stack(sums, axis=1), axis=1)


def _hard_negative_keys(negative: jax.Array, pairs: Pairs, targets: KeyBatch, widths: Sequence[int]) -> KeyBatch:
    """negative [q·h,e] as keys; what they share with their pair is repeated."""
    h = negative.shape[0] // targets.pair.shape[0]
    each = jax.tree.map(lambda leaf: repeat(leaf, "q ... -> (q h) ...", h=h), targets)
    return dataclasses.replace(
        each, vector=negative, factor=inverse_norms(negative, widths), content_hash=pairs.negative_hash
    )


def score_own_negatives(
    queries: QueryBatch, negatives: KeyBatch, widths: Sequence[int], columns: bool
) -> NegativeStats:
    """Every query against its own h hard negatives alone."""
    rows = queries.pair.shape[0]
    one_query, own = jax.tree.map(lambda leaf: mesh.split_leading(leaf, rows), (queries, negatives))
    found = jax.vmap(lambda query, keys: score_negatives(query, keys, widths, columns))(one_query, own)
    return jax.tree.map(lambda leaf: leaf[:, 0], found)


def zero_invalid(x: jax.Array, valid: jax.Array) -> jax.Array:
    """x[q·h,...], h rows a pair, with zeros in the rows of pairs that are not valid: what is there, NaN even, reaches
    neither a value nor a gradient."""
    rows = mesh.split_leading(x, len(valid))
    return mesh.merge_leading(jnp.where(valid.reshape(-1, *(1,) * x.ndim), rows, 0))


def mean_over_valid(x: jax.Array, valid: jax.Array) -> jax.Array:
    """x [q,...] -> f32[...]"""
    return jnp.sum(zero_invalid(x, valid).astype(jnp.float32), axis=0) / jnp.maximum(jnp.sum(valid), 1)
