"""What other recipes change in the contrastive loss, or add to it.

    loss, metrics = contrastive_loss(
        ..., hard_negative_weight=hard_negative_weighting(5.0), negatives_transform=debiased(0.05)
    )
    loss += spread_out(query, pairs.valid, widths) + spread_out(target, pairs.valid, widths)

None of them makes a batch x batch matrix, and rows stay sharded as they are.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import P

from embed.losses.masking import MASKED_LOGIT, zero_invalid
from embed.losses.negatives import KeyBatch, NegativeScorer, NegativeStats, QueryBatch
from embed.losses.prefixes import inverse_norms, uniform_weights


def hard_negative_weighting(alpha: float) -> Callable[[NegativeScorer], NegativeScorer]:
    """Weigh each hard negative by exp(alpha · cosine): the `hard_negative_weight` of `contrastive_loss`.

    EmbeddingGemma (arXiv 2509.20354, alpha = 5): alpha · cosine is added to the logit and held constant. With
    `cross_query_hard_negatives`, each query weighs them by its own cosines. `accuracy` stays that of the plain logits.
    """

    def weigh(scorer: NegativeScorer) -> NegativeScorer:
        def score(queries: QueryBatch, keys: KeyBatch, widths: Sequence[int], symmetric: bool) -> NegativeStats:
            # cosine · logit_scale + alpha · cosine = cosine · (logit_scale + alpha): a larger logit scale. The second
            # term is held constant, so the gradient is smaller than that of the larger scale, by the same factor.
            factor = jax.lax.stop_gradient(1 + alpha / queries.logit_scale)
            scaled = dataclasses.replace(
                queries,
                inv_norm_scale=queries.inv_norm_scale * rearrange(factor, "q -> q 1"),
                logit_scale=queries.logit_scale * factor,
            )
            stats = scorer(scaled, keys, widths, symmetric)
            constant = jax.lax.stop_gradient(stats.row_lse)
            row_lse = constant + (stats.row_lse - constant) / rearrange(factor, "q -> q 1")
            return dataclasses.replace(stats, row_lse=row_lse, max_logit=stats.max_logit / factor)

        return score

    return weigh


def debiased(prior: float) -> Callable[..., jax.Array]:
    """Subtract unlabeled positives, a share `prior` of the negatives: the `negatives_transform` of `contrastive_loss`.

    Debiased contrastive learning (arXiv 2007.00224, Eq. 7-8): with N negatives whose exponentials sum to S, and the
    positive's exponential p, the sum becomes N max((S / N - prior p) / (1 - prior), e^(-1/t)); e^(-1/t) is the smallest
    exponential that a cosine can have.

    Raises ValueError for a prior outside [0, 1).
    """
    if not 0 <= prior < 1:
        raise ValueError(f"debiased(prior={prior}): the share of unlabeled positives must be at least 0 and below 1")

    def transform(
        row_lse: jax.Array, num_negatives: jax.Array, positive: jax.Array, logit_scale: jax.Array
    ) -> jax.Array:
        count = jnp.maximum(num_negatives, 1)
        # In logarithms. Both branches of a `where` are differentiated, so each must be finite where it is not taken.
        log_share = jnp.log(prior * count) + positive - row_lse if prior else jnp.full_like(row_lse, MASKED_LOGIT)
        is_below_sum = log_share < 0
        log_remainder = jnp.log1p(-jnp.exp(jnp.where(is_below_sum, log_share, -1.0)))
        corrected = row_lse + log_remainder - jnp.log1p(-prior)
        floor = jnp.log(count) - rearrange(logit_scale, "q -> q 1")
        corrected = jnp.where(is_below_sum & (corrected > floor), corrected, floor)
        return jnp.where(num_negatives > 0, corrected, row_lse)

    return transform


def spread_out(
    x: jax.Array, valid: jax.Array, widths: Sequence[int], weights: Sequence[float] | None = None
) -> jax.Array:
    """Compute the mean squared cosine of all pairs of distinct valid rows of x [n,e], over Matryoshka widths -> f32[].

    The second moment of the global orthogonal regularizer (arXiv 1708.06320), as EmbeddingGemma has it: once for
    queries, once for targets. It takes a Gram matrix f32[e,e], whatever the batch: the sum of (x_i · x_j)² over i != j
    is the squared norm of XᵀX minus the sum of |x_i|⁴.
    """
    weights = uniform_weights(widths) if weights is None else weights
    x = zero_invalid(x, valid)
    inv_norms, count, loss = inverse_norms(x, widths), jnp.sum(valid), jnp.float32(0)
    for i, (width, weight) in enumerate(zip(widths, weights, strict=True)):
        unit = x[:, :width].astype(jnp.float32) * rearrange(inv_norms[:, i], "n -> n 1")
        gram = jnp.einsum("ne,nf->ef", unit, unit, out_sharding=P(), precision="highest")  # the difference below
        diagonal = jnp.sum(jnp.square(jnp.sum(jnp.square(unit), axis=1)))
        loss += weight * (jnp.sum(jnp.square(gram)) - diagonal) / jnp.maximum(count * (count - 1), 1)
    return loss
