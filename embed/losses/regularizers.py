"""What other recipes add to the contrast: as an argument of it, or as a term beside it.

    loss, metrics = contrast(..., scorer=ring, hard_negative_weight=hard_negative_weighting(5.0), negatives_transform=debiased(0.05))
    loss += spread_out(query, pairs.valid, widths) + spread_out(target, pairs.valid, widths)
    loss += matched(query, teacher_query, pairs.valid)

None of them makes a batch x batch matrix, and all keep to the rows' layout.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax import P

from embed.batch import Pairs
from embed.distributed import mesh
from embed.losses.contrastive import (
    MASKED_LOGIT,
    KeyBatch,
    NegativeScorer,
    NegativeStats,
    QueryBatch,
    inverse_norms,
    mean_over_valid,
    zero_invalid,
)


def hard_negative_weighting(alpha: float) -> Callable[[NegativeScorer], NegativeScorer]:
    """Hard negatives count exp(alpha · cosine) times, the more the harder; the `hard_negative_weight` of `contrastive_loss`.

    EmbeddingGemma (arXiv 2509.20354, alpha = 5): alpha times the cosine is added to the logit and held constant. Where
    negatives are shared, each query weighs them by its own cosines. `accuracy` stays that of the plain cosines.
    """

    def harden(meeting: NegativeScorer) -> NegativeScorer:
        def meet(queries: QueryBatch, keys: KeyBatch, widths: Sequence[int], columns: bool) -> NegativeStats:
            # s · sharp + alpha · s is s · (sharp + alpha): a sharper query. Held constant, the second term has no part
            # in the gradient, which is therefore smaller by the same factor.
            more = jax.lax.stop_gradient(1 + alpha / queries.sharp)
            factor = queries.factor * rearrange(more, "q -> q 1")
            sharper = dataclasses.replace(queries, factor=factor, sharp=queries.sharp * more)
            found = meeting(sharper, keys, widths, columns)
            constant = jax.lax.stop_gradient(found.total)
            total = constant + (found.total - constant) / rearrange(more, "q -> q 1")
            return dataclasses.replace(found, total=total, best=found.best / more)

        return meet

    return harden


def debiased(prior: float) -> Callable[..., jax.Array]:
    """Takes the expected share of unknown positives, `prior`, out of the negatives' sum; the `negatives_transform` of `contrastive_loss`.

    Debiased contrastive learning (arXiv 2007.00224, Eq. 7-8): of N negatives with the sum S, and the positive's
    exponential p, N max((S / N - prior p) / (1 - prior), e^(-1/t)) stands for S. Its floor is the least a sum can be.
    Raises ValueError for a prior that is not in [0, 1).
    """
    if not 0 <= prior < 1:
        raise ValueError(f"a share of positives of {prior}: it must be at least 0 and below 1")

    def correct(total: jax.Array, count: jax.Array, positive: jax.Array, sharp: jax.Array) -> jax.Array:
        """All f32[q,w] but sharp f32[q]; logsumexp of the negatives, their number, the positive's logit -> the same."""
        some = jnp.maximum(count, 1)
        # In logarithms; both branches of a `where` have a gradient, so each must be finite wherever it is not taken.
        share = jnp.log(prior * some) + positive - total if prior else jnp.full_like(total, MASKED_LOGIT)
        above = share < 0
        left = total + jnp.log1p(-jnp.exp(jnp.where(above, share, -1.0))) - jnp.log1p(-prior)
        floor = jnp.log(some) - rearrange(sharp, "q -> q 1")
        return jnp.where(count > 0, jnp.where(above & (left > floor), left, floor), total)

    return correct


def spread_out(
    x: jax.Array, valid: jax.Array, widths: Sequence[int], weights: Sequence[float] | None = None
) -> jax.Array:
    """Mean squared cosine of all pairs of distinct valid rows of x[n,e], over Matryoshka widths -> f32[].

    The second moment of the global orthogonal regulariser (arXiv 1708.06320), as EmbeddingGemma has it: once for
    queries, once for targets. From a Gram matrix f32[e,e], whatever the batch: the sum of (x_i · x_j)² over i != j is
    the squared norm of XᵀX less the rows' |x_i|⁴.
    """
    weights = [1 / len(widths)] * len(widths) if weights is None else weights
    x = zero_invalid(x, valid)
    units, count, loss = inverse_norms(x, widths), jnp.sum(valid), jnp.float32(0)
    for i, (width, weight) in enumerate(zip(widths, weights, strict=True)):
        unit = x[:, :width].astype(jnp.float32) * rearrange(units[:, i], "n -> n 1")
        gram = jnp.einsum("ne,nf->ef", unit, unit, out_sharding=P(), precision="highest")  # the difference below
        own = jnp.sum(jnp.square(jnp.sum(jnp.square(unit), axis=1)))
        loss += weight * (jnp.sum(jnp.square(gram)) - own) / jnp.maximum(count * (count - 1), 1)
    return loss


def embedding_matching(x: jax.Array, teacher: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean squared distance of the valid unit rows of x[n,e] to a teacher's, [n,e] -> f32[].

    EmbeddingGemma's embedding matching, which it applies to queries, targets and hard negatives alike (repeat `valid`
    for these). There is no gradient to the teacher. Raises ValueError where the sizes differ: project first.
    """
    if x.shape != teacher.shape:
        raise ValueError(f"vectors {x.shape} cannot match a teacher's {teacher.shape}; project them to its size first")
    vectors = (zero_invalid(y, valid).astype(jnp.float32) for y in (x, jax.lax.stop_gradient(teacher)))
    ours, theirs = (y * inverse_norms(y, y.shape[1:]) for y in vectors)
    return mean_over_valid(jnp.sum(jnp.square(ours - theirs), axis=1), valid)


def kl_distillation(
    query: jax.Array,
    target: jax.Array,
    negative: jax.Array,
    pairs: Pairs,
    teacher: jax.Array,
    *,
    temperature: float | jax.Array,
    widths: Sequence[int],
    weights: Sequence[float] | None = None,
) -> jax.Array:
    """KL divergence of a query's scores over its own candidates from a teacher's, mean over valid pairs -> f32[].

    query [q,e], target [q,e], negative [q·h,e] as in `contrast`; teacher f32[q,1+h] are logits of the target and of the
    h hard negatives, a cross-encoder's say, divided by whatever temperature they want. A hard negative that is equal to
    the target is no candidate; with none at all there is nothing to learn, and the loss is zero. `temperature` is one
    number or f32[q]. Each Matryoshka width is a loss of its own.
    """
    rows, weights = len(query), [1 / len(widths)] * len(widths) if weights is None else weights
    h = len(negative) // rows
    if not h:
        return jnp.float32(0)
    query, target, negative, teacher = (zero_invalid(x, pairs.valid) for x in (query, target, negative, teacher))
    own = mesh.split_leading(negative, rows)
    keys = jnp.concatenate([rearrange(target, "q e -> q 1 e"), own], axis=1).astype(jnp.float32)
    again = repeat(pairs.target_hash, "q two -> (q h) two", h=h) == pairs.negative_hash
    real = ~mesh.split_leading(jnp.all(again, axis=1), rows)
    there = jnp.pad(real, ((0, 0), (1, 0)), constant_values=True)
    theirs = jax.nn.log_softmax(jnp.where(there, jax.lax.stop_gradient(teacher).astype(jnp.float32), MASKED_LOGIT))
    sharp, loss = jnp.ones_like(query[:, 0], jnp.float32) / temperature, jnp.float32(0)
    unit_query = inverse_norms(query, widths)
    unit_keys = mesh.split_leading(inverse_norms(rearrange(keys, "q n e -> (q n) e"), widths), rows)
    for i, (width, weight) in enumerate(zip(widths, weights, strict=True)):
        product = jnp.einsum("qe,qne->qn", query[:, :width].astype(jnp.float32), keys[..., :width])
        scores = product * unit_keys[..., i] * rearrange(unit_query[:, i] * sharp, "q -> q 1")
        ours = jax.nn.log_softmax(jnp.where(there, scores, MASKED_LOGIT))
        each = jnp.sum(jnp.where(there, jnp.exp(theirs) * (theirs - ours), 0), axis=1)
        loss += weight * mean_over_valid(each, pairs.valid)
    return loss
