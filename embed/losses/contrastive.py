"""The contrastive loss of the Gemini Embedding 2 report (arXiv 2605.27295, Eq. 2-3).

`report_loss` is the loss as the report prints it. `contrastive_loss` is what trains: the same numbers by default
(tests/losses/test_report_loss.py), at every Matryoshka width, sharded over the mesh, with the options of `Candidates`,
a scale per query, and a choice of how negatives are scored.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from embed.batch import REPORT_CANDIDATES, Candidates, Pairs
from embed.distributed import mesh
from embed.losses.masking import MASKED_LOGIT, mean_over_valid, zero_invalid
from embed.losses.negatives import KeyBatch, NegativeScorer, QueryBatch, gather_and_score, score_own_negatives
from embed.losses.prefixes import inverse_norms, prefix_products, uniform_weights


def report_loss(
    queries: jax.Array, targets: jax.Array, hard_negatives: jax.Array, pairs: Pairs, temperature: float | jax.Array
) -> jax.Array:
    """Compute the loss as the report prints it: queries [q,e], targets [q,e], hard_negatives [q,h,e] -> f32[]."""
    queries, targets, hard_negatives = map(_normalize, (queries, targets, hard_negatives))
    positive = jnp.einsum("qe,qe->q", queries, targets) / temperature
    in_batch = jnp.einsum("qe,pe->qp", queries, targets) / temperature
    hard = jnp.einsum("qe,qhe->qh", queries, hard_negatives) / temperature

    # Eq. 3: another pair's target is no negative if the queries or the targets are equal; so mask(i, i) = 0.
    mask = ~_equal_rows(pairs.query_hash, pairs.query_hash) & ~_equal_rows(pairs.target_hash, pairs.target_hash)
    in_batch = jnp.where(mask & pairs.valid[None], in_batch, -jnp.inf)
    is_positive = jnp.all(pairs.negative_hash.reshape(*hard.shape, 2) == pairs.target_hash[:, None], axis=-1)
    hard = jnp.where(is_positive, -jnp.inf, hard)

    # Eq. 2: -log of the positive's share of positive + hard negatives + other pairs' targets.
    denominator = jax.nn.logsumexp(jnp.concatenate([positive[:, None], hard, in_batch], axis=1), axis=1)
    return jnp.mean(denominator - positive, where=pairs.valid)


def _normalize(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _equal_rows(a: jax.Array, b: jax.Array) -> jax.Array:
    """Compare content hashes u32[q,2] and u32[n,2] -> bool[q,n]."""
    return jnp.all(a[:, None] == b[None], axis=-1)


def unweighted(scorer: NegativeScorer) -> NegativeScorer:
    """Leave hard negatives as `scorer` scores them. Alternative: `regularizers.hard_negative_weighting`."""
    return scorer


def identity(row_lse: jax.Array, num_negatives: jax.Array, positive: jax.Array, logit_scale: jax.Array) -> jax.Array:
    """Leave the negatives' logsumexp unchanged. Alternative: `regularizers.debiased`."""
    return row_lse


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
    hard_negative_weight: Callable[[NegativeScorer], NegativeScorer] = unweighted,
    negatives_transform: Callable[..., jax.Array] = identity,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute the contrastive loss, averaged over valid pairs and Matryoshka widths.

    query [q,e], target [q,e], negative [q·h,e] with h >= 0: vectors, not necessarily normalized; row i of `target` is
        the positive of query i, rows i·h .. i·h+h-1 of `negative` its hard negatives. Products are made in their dtype
        and accumulated in float32.
    pairs: content hashes and validity.
    temperature: f32[], a constant or a parameter.
    widths, weights: the Matryoshka widths, ascending, each a loss of its own on renormalized prefixes; and the weights
        of their losses, equal by default.
    candidates: which keys are negatives.
    scale: f32[q], multiplies each query's logits; 1 by default.
    scorer: `negatives.gather_and_score`, or `ring.ring_score` for constant memory.
    hard_negative_weight: changes how hard negatives are scored.
    negatives_transform: (row_lse f32[q,w], num_negatives f32[q,w], positive f32[q,w], logit_scale f32[q]) -> f32[q,w],
        changes the logsumexp of the negatives.

    Returns the loss f32[] and metrics at the widest width over valid pairs: `accuracy`, the share of queries whose
    positive beats every negative; `effective_negatives`, the mean number of negatives per query after masking;
    `masked`, the share of candidates that was masked out.
    """
    num_queries, widths = query.shape[0], tuple(widths)
    h = negative.shape[0] // num_queries
    weights = uniform_weights(widths) if weights is None else weights
    valid = pairs.valid
    pair_index = jnp.arange(num_queries, out_sharding=mesh.ROWS)
    query, target, negative = (zero_invalid(x, valid) for x in (query, target, negative))
    scale = jnp.ones_like(query[:, 0], jnp.float32) if scale is None else jax.reshard(scale, mesh.ROWS)
    logit_scale = jnp.where(valid, scale, 1) / temperature

    query_inv_norm, target_inv_norm = inverse_norms(query, widths), inverse_norms(target, widths)
    positive_cosine = prefix_products(query, target, widths) * query_inv_norm * target_inv_norm
    positive = positive_cosine * rearrange(logit_scale, "q -> q 1")
    margin = jnp.inf if candidates.margin is None else candidates.margin
    threshold = jax.lax.stop_gradient(positive_cosine) + margin

    inv_norm_scale = query_inv_norm * rearrange(logit_scale, "q -> q 1")
    pair_fields = (threshold, pairs.query_hash, pairs.target_hash, valid, pair_index)
    queries = QueryBatch(query, inv_norm_scale, *pair_fields, logit_scale)
    targets = KeyBatch(target, target_inv_norm, *pair_fields)
    stats = []
    if candidates.in_batch:
        stats.append(scorer(queries, targets, widths, candidates.symmetric))
    if h:
        hard_scorer = hard_negative_weight(scorer if candidates.cross_query_hard_negatives else score_own_negatives)
        stats.append(hard_scorer(queries, _hard_negative_keys(negative, pairs, targets, widths), widths, False))

    def nll(negatives_lse: jax.Array, count: jax.Array) -> jax.Array:
        """Compute -log of the positive's share of positive + negatives: f32[q,w]."""
        transformed = negatives_transform(negatives_lse, count, positive, logit_scale)
        return jnp.logaddexp(transformed, positive) - positive

    no_negatives, zero_count = jnp.full_like(positive, MASKED_LOGIT), jnp.zeros_like(positive)
    row_lse = functools.reduce(jnp.logaddexp, (part.row_lse for part in stats), no_negatives)
    num_negatives = sum((part.num_negatives for part in stats), zero_count)
    per_example = nll(row_lse, num_negatives)
    if candidates.symmetric:
        # The columns of the same logits: each target against the queries. The positive joins its column's sum.
        col_lse, col_count = no_negatives, zero_count
        if candidates.in_batch:
            col_lse, col_count = stats[0].col_lse, stats[0].col_count
        per_example = (per_example + nll(col_lse, col_count)) / 2
    loss = jnp.sum(jnp.asarray(weights, jnp.float32) * mean_over_valid(per_example, valid))

    max_logit = functools.reduce(
        jnp.maximum, (part.max_logit for part in stats), jnp.full_like(logit_scale, MASKED_LOGIT)
    )
    num_candidates = jnp.sum(valid) - 1 if candidates.in_batch else 0
    num_candidates += jnp.sum(valid) * h if candidates.cross_query_hard_negatives else h
    metrics = {
        "accuracy": mean_over_valid(positive[:, -1] > max_logit, valid),
        "effective_negatives": mean_over_valid(num_negatives[:, -1], valid),
        "masked": 1 - mean_over_valid(num_negatives[:, -1], valid) / jnp.maximum(num_candidates, 1),
    }
    return loss, metrics


def _hard_negative_keys(negative: jax.Array, pairs: Pairs, targets: KeyBatch, widths: Sequence[int]) -> KeyBatch:
    """Make keys of negative [q·h,e]; the fields of their pair are repeated h times."""
    h = negative.shape[0] // targets.pair_index.shape[0]
    repeated = jax.tree.map(lambda leaf: repeat(leaf, "q ... -> (q h) ...", h=h), targets)
    return dataclasses.replace(
        repeated,
        vector=negative,
        inv_norm_scale=inverse_norms(negative, widths),
        content_hash=pairs.negative_hash,
    )
