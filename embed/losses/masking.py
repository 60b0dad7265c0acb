"""Rows that are not valid: kept out of every value and gradient."""

import jax
import jax.numpy as jnp

from embed.distributed import mesh

MASKED_LOGIT = -1e30  # a finite stand-in for minus infinity: its gradient is zero and never NaN


def zero_invalid(x: jax.Array, valid: jax.Array) -> jax.Array:
    """Set the rows of invalid pairs to zero, so that their content, even NaN, reaches no value and no gradient.

    x [q·h,...] with h rows per pair, valid bool[q] -> [q·h,...].
    """
    rows = mesh.split_leading(x, len(valid))
    return mesh.merge_leading(jnp.where(valid.reshape(-1, *(1,) * x.ndim), rows, 0))


def mean_over_valid(x: jax.Array, valid: jax.Array) -> jax.Array:
    """Average x [q,...] over the valid rows -> f32[...]; zero where no row is valid."""
    return jnp.sum(zero_invalid(x, valid).astype(jnp.float32), axis=0) / jnp.maximum(jnp.sum(valid), 1)
