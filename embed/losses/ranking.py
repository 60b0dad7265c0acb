"""Learning from graded pairs: cosines in the order of the pairs' scores.

if len(pairs.score):  # a task of graded pairs; other tasks have none
    loss, metrics = cosent(query, target, pairs.score, pairs.valid, temperature=0.05, widths=widths)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import P

from embed.losses.masking import MASKED_LOGIT, zero_invalid
from embed.losses.prefixes import inverse_norms, prefix_products, uniform_weights


def cosent(
    query: jax.Array,
    target: jax.Array,
    score: jax.Array,
    valid: jax.Array,
    *,
    temperature: float | jax.Array,
    widths: Sequence[int],
    weights: Sequence[float] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute log(1 + Σ exp((cos_j - cos_i) / t)) over all valid i, j with score_i > score_j -> f32[].

    CoSENT (Su 2022, https://kexue.fm/archives/8847; as Eq. 1 of AnglE, arXiv 2309.12871), whose t is 0.05.

    query [q,e], target [q,e]: the two sides of each pair, not necessarily normalized; score f32[q]; valid bool[q].
    widths, weights: the Matryoshka widths, each a loss of its own, and the weights of these losses, equal by default.

    Every device holds the cosines of the batch and their differences f32[w,q,q]. The loss is zero where no two scores
    differ. The metric `ordered` is the share of pairs i, j whose cosines at the widest width are in order.
    """
    weights = uniform_weights(widths) if weights is None else weights
    query, target = zero_invalid(query, valid), zero_invalid(target, valid)
    cosine = prefix_products(query, target, widths) * inverse_norms(query, widths) * inverse_norms(target, widths)
    cosine, score, valid = (jax.reshard(x, P()) for x in (cosine, score, valid))
    is_higher = rearrange(score, "i -> i 1") > rearrange(score, "j -> 1 j")
    is_higher &= rearrange(valid, "i -> i 1") & rearrange(valid, "j -> 1 j")
    excess = rearrange(cosine, "j w -> w 1 j") - rearrange(cosine, "i w -> w i 1")
    logits = jnp.where(rearrange(is_higher, "i j -> 1 i j"), excess / temperature, MASKED_LOGIT)
    per_width = jax.nn.softplus(jax.nn.logsumexp(logits, axis=(1, 2)))
    loss = jnp.sum(jnp.asarray(weights, jnp.float32) * per_width)
    ordered = jnp.sum(is_higher & (excess[-1] < 0)) / jnp.maximum(jnp.sum(is_higher), 1)
    return loss, {"ordered": ordered}
