"""Norms and logits of Matryoshka prefixes: every width from one pass over the vector.

The dot product of two prefixes is the sum over the chunks between consecutive widths, so w widths cost the FLOPs of
one product of the full vectors.
"""

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
from einops import rearrange


def uniform_weights(widths: Sequence[int]) -> list[float]:
    """Weigh every width equally."""
    return [1 / len(widths)] * len(widths)


def prefix_products(a: jax.Array, b: jax.Array, widths: Sequence[int]) -> jax.Array:
    """Multiply row i of a with row i of b, for every prefix: a [n,e], b [n,e] -> f32[n,w]."""
    product = a.astype(jnp.float32) * b.astype(jnp.float32)
    sums = [jnp.sum(product[:, start:stop], axis=1) for start, stop in pairwise([0, *widths])]
    return jnp.cumsum(jnp.stack(sums, axis=1), axis=1)


def inverse_norms(x: jax.Array, widths: Sequence[int]) -> jax.Array:
    """Compute 1 / norm of every prefix: x [n,e] -> f32[n,w]."""
    return jax.lax.rsqrt(jnp.maximum(prefix_products(x, x, widths), 1e-24))


def prefix_logits(
    query: jax.Array, query_scale: jax.Array, key: jax.Array, key_scale: jax.Array, widths: Sequence[int]
) -> jax.Array:
    """Compute the logits of every query and key at every width.

    query [q,e], query_scale f32[q,w], key [n,e], key_scale f32[n,w] -> f32[w,q,n]. Products are made in the vectors'
    dtype and accumulated in float32.
    """
    product = jnp.float32(0)
    per_width = []
    for start, stop in pairwise([0, *widths]):
        q, k = query[:, start:stop], key[:, start:stop]
        product = product + jnp.einsum("qe,ne->qn", q, k, preferred_element_type=jnp.float32)
        per_width.append(product)
    return jnp.stack(per_width) * rearrange(query_scale, "q w -> w q 1") * rearrange(key_scale, "n w -> w 1 n")
