"""The layers everything is made of: an einsum with its shape and layout on one line, norms, rotary positions,
attention."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax import P

from embed import mesh
from embed.model.presets import AttentionSpec


class Einsum(nn.Module):
    """A bias-free linear map: `equation` takes the input and a weight of `shape`, laid out as `layout`.

    The weight starts normal with variance 1 / (product of its contracted sizes), is stored in float32, and is cast to
    the input's dtype at use.
    """

    equation: str
    shape: tuple[int, ...]
    layout: P
    out: P

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        operands, output = self.equation.split("->")
        letters = operands.split(",")[1]
        fan_in = math.prod(size for letter, size in zip(letters, self.shape, strict=True) if letter not in output)
        init = nn.initializers.normal(fan_in**-0.5)
        weight = self.param("weight", init, self.shape, jnp.float32, self.layout)
        # Leading axes become one: the same product everywhere, and on CPU a plain matrix product, 1.6 times as fast.
        inputs = operands.split(",")[0]
        lead = sum(letter not in letters for letter in inputs)
        rows = math.prod(x.shape[:lead])
        flat = x.reshape(rows, *x.shape[lead:], out_sharding=P(mesh.BATCH, *jax.typeof(x).sharding.spec[lead:]))
        equation = f"r{inputs[lead:]},{letters}->r{output[lead:]}"
        out = jnp.einsum(equation, flat, weight.astype(x.dtype), out_sharding=P(mesh.BATCH, *self.out[lead:]))
        return out.reshape(*x.shape[:lead], *out.shape[1:], out_sharding=self.out)


class RMSNorm(nn.Module):
    """x / rms(x), over the last axis in float32, times a learned scale that starts at `initial` (or none)."""

    scale: bool = True
    initial: float = 1.0
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        if self.scale:
            scale = self.param("scale", nn.initializers.constant(self.initial), x.shape[-1:], jnp.float32, mesh.VECTOR)
            y = jnp.einsum("...d,d->...d", y, scale)
        return y.astype(x.dtype)


class LayerNorm(nn.Module):
    """The usual layer normalisation, in float32, as Gemma 4 12B Unified has it around its patch embedder."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32, mesh.VECTOR)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32, mesh.VECTOR)
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        lead = (1,) * (x.ndim - 1)
        return (y * scale.reshape(*lead, -1) + bias.reshape(*lead, -1)).astype(x.dtype)


def rotate(x: jax.Array, positions: jax.Array, spec: AttentionSpec) -> jax.Array:
    """Rotary positions on x[b,l,h,k] at positions i32[b,l]: the first half of k against the second.

    With `rotary` < 1 only that share of the frequencies turns ("proportional" in Gemma 4): exponents stay relative to
    the whole head, the remaining angles are zero.
    """
    half = spec.head_dim // 2
    index = jnp.arange(half, dtype=jnp.float32)
    frequency = jnp.where(index < int(spec.rotary * half), spec.theta ** (-2 * index / spec.head_dim), 0.0)
    angle = jnp.einsum("bl,k->blk", positions.astype(jnp.float32), frequency)
    cos, sin = (rearrange(f(angle), "b l k -> b l 1 k").astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attention_mask(segments: jax.Array, positions: jax.Array, window: int) -> jax.Array:
    """bool[b,1,l,l]: both tokens in one segment and, with a window, at most that far apart. No causality."""
    across, down = (lambda x: rearrange(x, "b l -> b 1 1 l")), (lambda x: rearrange(x, "b l -> b 1 l 1"))
    same = across(segments) == down(segments)
    return same & (jnp.abs(across(positions) - down(positions)) <= window) if window else same


class Attention(nn.Module):
    """Bidirectional grouped attention with normalised queries, keys and (scale-free) values, scores not rescaled."""

    spec: AttentionSpec
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
        """x[b,l,d], positions i32[b,l], mask bool[b,1,l,l] -> [b,l,d]."""
        spec, d = self.spec, self.width
        kv_shape = (d, spec.groups, spec.head_dim)
        q = Einsum("bld,dhk->blhk", (d, spec.heads, spec.head_dim), mesh.QUERY, mesh.HEADS, name="query")(x)
        k = Einsum("bld,dgk->blgk", kv_shape, mesh.KEY_VALUE, mesh.PATCHES, name="key")(x)
        v = Einsum("bld,dgk->blgk", kv_shape, mesh.KEY_VALUE, mesh.PATCHES, name="value")(x)
        q = rotate(RMSNorm(name="query_norm")(q), positions, spec)
        k = rotate(RMSNorm(name="key_norm")(k), positions, spec)
        v = RMSNorm(scale=False)(v)
        # Each group serves heads/groups query heads; repeated, keys and values split over `model` whatever groups is.
        copies = spec.heads // spec.groups
        k, v = (jax.reshard(repeat(t, "b l g k -> b l (g r) k", r=copies), mesh.HEADS) for t in (k, v))
        y = jax.nn.dot_product_attention(q, k, v, mask=mask, scale=1.0)
        shape = (spec.heads, spec.head_dim, d)
        return Einsum("blhk,hkd->bld", shape, mesh.ATTENTION_OUT, mesh.TOKENS, name="out")(y)


class GatedFeedForward(nn.Module):
    """down(gelu(gate(x)) * up(x)), with the tanh form of gelu."""

    width: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def up(name: str) -> Any:
            return Einsum("bld,df->blf", (self.width, self.hidden), mesh.UP, mesh.HIDDEN, name=name)(x)

        y = nn.gelu(up("gate"), approximate=True) * up("up")
        return Einsum("blf,fd->bld", (self.hidden, self.width), mesh.DOWN, mesh.TOKENS, name="down")(y)
