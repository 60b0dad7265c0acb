"""The report's contrastive loss with all its masks, dense: the reference you can read.

Gemini Embedding 2 (arXiv 2605.27295), Eq. 2-3: for query i with cosine s and temperature t, cross-entropy of the
positive against its own hard negatives and every other target j, except those with an equal query or an equal target
(by content hash), which would be false negatives. The positive enters the denominator exactly once.
"""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import P

from embed import mesh
from embed.inputs import Pairs

EXCLUDED = -1e30  # a logit that is not there; finite, so that its gradient is zero and never NaN


@dataclasses.dataclass(frozen=True)
class Candidates:
    """What a query is compared with. The default is the report's."""

    in_batch: bool = True  # other rows' targets; False = own negatives only, for classification with few labels
    shared_negatives: bool = False  # other rows' hard negatives too
    margin: float | None = None  # drop candidates with cosine above the positive's + margin: likely false negatives
    both_directions: bool = False  # average with the loss of each target against the batch's queries


REPORT = Candidates()


def contrast(
    query: jax.Array,
    target: jax.Array,
    negative: jax.Array,
    pairs: Pairs,
    *,
    temperature: float,
    widths: Sequence[int],
    weights: Sequence[float] | None = None,
    candidates: Candidates = REPORT,
    scale: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean loss over the valid pairs, and over Matryoshka widths with `weights` (equal ones if none are given).

    query f32[q,e], target f32[q,e] and negative f32[q·h,e] (h >= 0) need not be normalised; `pairs` gives content
    hashes and validity; `scale` f32[q] multiplies each query's logits. Each width is a loss of its own on renormalised
    prefixes; all come from one pass, since dot products over nested prefixes add up.

    Returns f32[] and metrics of the widest width over valid pairs: `accuracy`, the share of queries whose positive
    beats every candidate; `effective_negatives`, the mean number of candidates left to a query after masking;
    `masked`, the share of the others' targets and of hard negatives that was masked out.
    """
    rows = query.shape[0]
    h = negative.shape[0] // rows
    weights = [1 / len(widths)] * len(widths) if weights is None else weights
    scale = jnp.ones_like(query[:, 0]) if scale is None else scale
    keep_targets, keep_negatives = _masks(pairs, h, candidates)
    valid = pairs.valid

    # Every device sees every candidate; embed/loss/ring.py is for batches where that does not fit.
    targets = jax.reshard(target, P())
    negatives = jax.reshard(negative, P()) if candidates.shared_negatives else _by_query(negative, rows)
    to_negatives = "qe,ne->qn" if candidates.shared_negatives else "qe,qhe->qh"
    out = mesh.EMBEDDINGS

    loss, metrics = jnp.float32(0), {}
    dots = [jnp.float32(0)] * 3  # query·target, query·negative, query·own target
    norms = [jnp.float32(0)] * 4  # squared, of query, targets, negatives, own target
    for (start, stop), weight in zip(pairwise([0, *widths]), weights, strict=True):
        q, t, n, own = (x[..., start:stop].astype(jnp.float32) for x in (query, targets, negatives, target))
        products = [
            jnp.einsum("qe,ne->qn", q, t, out_sharding=out),
            jnp.einsum(to_negatives, q, n, out_sharding=out),
            jnp.sum(q * own, axis=-1),
        ]
        dots = [total + product for total, product in zip(dots, products, strict=True)]
        norms = [total + jnp.sum(jnp.square(x), axis=-1) for total, x in zip(norms, (q, t, n, own), strict=True)]
        rq, rt, rn, rown = (jax.lax.rsqrt(jnp.maximum(norm, 1e-24)) for norm in norms)
        across = rearrange(rn, "n -> 1 n") if candidates.shared_negatives else rn
        cos_targets = dots[0] * rearrange(rq, "q -> q 1") * rearrange(rt, "n -> 1 n")
        cos_negatives = dots[1] * rearrange(rq, "q -> q 1") * across
        positive = dots[2] * rq * rown

        near_targets, near_negatives = keep_targets, keep_negatives
        near_queries = keep_targets & rearrange(valid, "q -> q 1")
        if candidates.margin is not None:
            ceiling = positive + candidates.margin
            near_targets &= cos_targets <= rearrange(ceiling, "q -> q 1")
            near_negatives &= cos_negatives <= rearrange(ceiling, "q -> q 1")
            near_queries &= cos_targets <= rearrange(jax.reshard(ceiling, P()), "n -> 1 n")
        sharp = rearrange(scale / temperature, "q -> q 1")
        rivals = [
            jnp.where(near_targets, cos_targets * sharp, EXCLUDED),
            jnp.where(near_negatives, cos_negatives * sharp, EXCLUDED),
        ]
        own_logit = positive * scale / temperature
        each = (
            jax.nn.logsumexp(jnp.concatenate([rearrange(own_logit, "q -> q 1"), *rivals], axis=1), axis=1) - own_logit
        )
        if candidates.both_directions:
            # The same scores read by column: a target against the queries. The positive joins its column's sum.
            column = jax.nn.logsumexp(jnp.where(near_queries, cos_targets * sharp, EXCLUDED), axis=0)
            each = (each + jnp.logaddexp(jax.reshard(column, mesh.ROWS), own_logit) - own_logit) / 2
        loss += weight * _mean(each, valid)

        best = jnp.max(jnp.concatenate(rivals, axis=1), axis=1)
        left = jnp.sum(near_targets, axis=1) + jnp.sum(near_negatives, axis=1)
        offered = jnp.sum(valid) - 1 if candidates.in_batch else 0
        offered += jnp.sum(valid) * h if candidates.shared_negatives else h
        metrics = {
            "accuracy": _mean(own_logit > best, valid),
            "effective_negatives": _mean(left, valid),
            "masked": 1 - _mean(left, valid) / jnp.maximum(offered, 1),
        }
    return loss, metrics


def _masks(pairs: Pairs, h: int, candidates: Candidates) -> tuple[jax.Array, jax.Array]:
    """bool[q,q] of targets to keep, and bool[q,h] of own (or bool[q,q·h] of everybody's) hard negatives to keep."""
    rows = pairs.valid.shape[0]
    same_query = _equal(pairs.query_hash, pairs.query_hash)
    same_target = _equal(pairs.target_hash, pairs.target_hash)
    there = rearrange(jax.reshard(pairs.valid, P()), "n -> 1 n")
    targets = ~(same_query | same_target) & there & candidates.in_batch
    if candidates.shared_negatives:
        owner = jnp.arange(rows * h) // max(h, 1)
        mine = jnp.arange(rows).reshape(-1, 1) == owner.reshape(1, -1)
        others = jnp.broadcast_to((~same_query & there)[..., None], (rows, rows, h))
        others = others.reshape(rows, rows * h, out_sharding=mesh.EMBEDDINGS)
        return targets, (mine | others) & ~_equal(pairs.target_hash, pairs.negative_hash)
    hashes = _by_query(pairs.negative_hash, rows)
    return targets, jnp.any(hashes != rearrange(pairs.target_hash, "q w -> q 1 w"), axis=-1)


def _equal(a: jax.Array, b: jax.Array) -> jax.Array:
    """bool[q,n]: which 64-bit hashes u32[q,2], u32[n,2] are equal."""
    b = jax.reshard(b, P())
    return jnp.all(rearrange(a, "q w -> q 1 w") == rearrange(b, "n w -> 1 n w"), axis=-1)


def _by_query(x: jax.Array, rows: int) -> jax.Array:
    """[q·h,...] -> [q,h,...]; its layout said, since for h = 0 it cannot be inferred."""
    return x.reshape(rows, x.shape[0] // rows, *x.shape[1:], out_sharding=mesh.TOKENS)


def _mean(x: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(valid, x, 0).astype(jnp.float32)) / jnp.maximum(jnp.sum(valid), 1)
