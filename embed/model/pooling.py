"""Pooling: from the hidden states of a row to one vector per segment; `Architecture.pooling` names the function.

To add a pooling, add a function NAME_pool with the same arguments.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange

from embed.distributed import mesh

Pooling = Callable[[jax.Array, jax.Array, int], jax.Array]


def mean_pool(x: jax.Array, segments: jax.Array, num_segments: int) -> jax.Array:
    """Mean of x[b,l,d] over the tokens of segments 1..num_segments i32[b,l] -> f32[b,s,d]; zeros for an absent one."""
    members = is_member(segments, num_segments).astype(jnp.float32)
    total = jnp.einsum("bls,bld->bsd", members, x.astype(jnp.float32), out_sharding=mesh.TOKENS)
    return total / jnp.maximum(jnp.sum(members, axis=1)[..., None], 1)


def first_pool(x: jax.Array, segments: jax.Array, num_segments: int) -> jax.Array:
    """The first token of each segment (BERT's [CLS]; here <bos>). Shapes as `mean_pool`."""
    members = is_member(segments, num_segments)
    return _select(x, jnp.argmax(members, axis=1), members)


def last_pool(x: jax.Array, segments: jax.Array, num_segments: int) -> jax.Array:
    """The last token of each segment (here <eos>), for causal attention the only one that sees all. Shapes as
    `mean_pool`."""
    members = is_member(segments, num_segments)
    return _select(x, x.shape[1] - 1 - jnp.argmax(members[:, ::-1], axis=1), members)


def max_pool(x: jax.Array, segments: jax.Array, num_segments: int) -> jax.Array:
    """The maximum over each segment's tokens, by dimension. Shapes as `mean_pool`."""
    members = rearrange(is_member(segments, num_segments), "b l s -> b l s 1")
    largest = jnp.max(jnp.where(members, rearrange(x.astype(jnp.float32), "b l d -> b l 1 d"), -jnp.inf), axis=1)
    return jnp.where(jnp.any(members, axis=1), largest, 0)


def find_pooling(name: str) -> Pooling:
    """The function of this file that `Architecture.pooling` names. Raises ValueError, with the choices."""
    poolings = {key.removesuffix("_pool"): value for key, value in globals().items() if key.endswith("_pool")}
    if name not in poolings:
        raise ValueError(f"pooling {name!r}: choose one of {', '.join(poolings)} (embed/model/pooling.py)")
    return poolings[name]


def is_member(segments: jax.Array, num_segments: int) -> jax.Array:
    """bool[b,l,s]: whether token l belongs to segment s + 1."""
    return segments[..., None] == jnp.arange(1, num_segments + 1).reshape(1, 1, -1)


def _select(x: jax.Array, index: jax.Array, members: jax.Array) -> jax.Array:
    """x[b,l,d] at index[b,s] -> f32[b,s,d]; zeros where a segment has no members."""
    tokens = jnp.take_along_axis(x, index[..., None], axis=1)
    return jnp.where(jnp.any(members, axis=1)[..., None], tokens.astype(jnp.float32), 0)
