"""Learning from a teacher: its embeddings, or its scores of a query's candidates.

teacher_query, is_known = look_up(table, pairs.query_hash)
loss += embedding_matching(query[:, : teacher_query.shape[1]], teacher_query, pairs.valid & is_known)
loss += kl_distillation(query, target, negative, pairs, teacher_logits, temperature=0.05, widths=widths)
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

from embed.batch import Pairs
from embed.distributed import mesh
from embed.losses.masking import MASKED_LOGIT, mean_over_valid, zero_invalid
from embed.losses.prefixes import inverse_norms, uniform_weights


class TeacherTable(NamedTuple):
    """A teacher's embeddings of contents: constants of the loss, on every device."""

    hashes: np.ndarray  # u32[n,2], content hashes
    embeddings: np.ndarray  # f32[n,e]


def look_up(table: TeacherTable, hashes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Look up contents by their hashes u32[q,2]: the teacher's embeddings f32[q,e], and which it has, bool[q].

    The rows of contents that it does not have are meaningless.
    """
    is_equal = jnp.all(rearrange(hashes, "q two -> q 1 two") == rearrange(table.hashes, "n two -> 1 n two"), axis=-1)
    index = jnp.argmax(is_equal, axis=1)
    return jnp.asarray(table.embeddings).at[index].get(out_sharding=mesh.EMBEDDINGS), jnp.any(is_equal, axis=1)


def embedding_matching(x: jax.Array, teacher: jax.Array, valid: jax.Array) -> jax.Array:
    """Compute the mean squared distance of x [n,e] to the teacher's embeddings [n,e], over valid rows -> f32[].

    Both are normalized; the teacher gets no gradient. EmbeddingGemma (arXiv 2509.20354) applies it to queries, targets
    and hard negatives alike (for these, repeat `valid`).

    Raises ValueError where the shapes differ.
    """
    if x.shape != teacher.shape:
        raise ValueError(
            f"embeddings {x.shape} cannot match the teacher's {teacher.shape}; project them to the teacher's size first"
        )
    x = zero_invalid(x, valid).astype(jnp.float32)
    teacher = zero_invalid(jax.lax.stop_gradient(teacher), valid).astype(jnp.float32)
    x = x * inverse_norms(x, x.shape[1:])
    teacher = teacher * inverse_norms(teacher, teacher.shape[1:])
    return mean_over_valid(jnp.sum(jnp.square(x - teacher), axis=1), valid)


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
    """Compute KL(teacher || student) over each query's target and hard negatives, averaged over valid pairs -> f32[].

    query [q,e], target [q,e], negative [q·h,e]: as in `contrastive_loss`.
    teacher: f32[q,1+h], logits of the target and the h hard negatives, e.g. a cross-encoder's, already divided by the
        teacher's temperature; they get no gradient.
    temperature: the student's, f32[] or f32[q].
    widths, weights: the Matryoshka widths, each a loss of its own, and the weights of these losses, equal by default.

    A hard negative equal to the target is left out. Without hard negatives the loss is zero.
    """
    num_queries = len(query)
    h = len(negative) // num_queries
    weights = uniform_weights(widths) if weights is None else weights
    if not h:
        return jnp.float32(0)
    query, target, negative, teacher = (zero_invalid(x, pairs.valid) for x in (query, target, negative, teacher))
    negative = mesh.split_leading(negative, num_queries)
    keys = jnp.concatenate([rearrange(target, "q e -> q 1 e"), negative], axis=1).astype(jnp.float32)
    equals_target = jnp.all(repeat(pairs.target_hash, "q two -> (q h) two", h=h) == pairs.negative_hash, axis=1)
    is_negative = ~mesh.split_leading(equals_target, num_queries)
    is_candidate = jnp.pad(is_negative, ((0, 0), (1, 0)), constant_values=True)
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    teacher_log_probs = jax.nn.log_softmax(jnp.where(is_candidate, teacher, MASKED_LOGIT))
    logit_scale, loss = jnp.ones_like(query[:, 0], jnp.float32) / temperature, jnp.float32(0)
    query_inv_norm = inverse_norms(query, widths)
    key_inv_norm = mesh.split_leading(inverse_norms(rearrange(keys, "q n e -> (q n) e"), widths), num_queries)
    for i, (width, weight) in enumerate(zip(widths, weights, strict=True)):
        product = jnp.einsum("qe,qne->qn", query[:, :width].astype(jnp.float32), keys[..., :width])
        logits = product * key_inv_norm[..., i] * rearrange(query_inv_norm[:, i] * logit_scale, "q -> q 1")
        log_probs = jax.nn.log_softmax(jnp.where(is_candidate, logits, MASKED_LOGIT))
        divergence = jnp.exp(teacher_log_probs) * (teacher_log_probs - log_probs)
        per_example = jnp.sum(jnp.where(is_candidate, divergence, 0), axis=1)
        loss += weight * mean_over_valid(per_example, pairs.valid)
    return loss
