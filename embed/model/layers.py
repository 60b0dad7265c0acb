"""The layers that all models are made of: einsum, norms, rotary positions, attention, feed-forward, dropout, scan."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jax import P
from jax.experimental.layout import Layout, with_layout_constraint

from embed.batch import Dropout
from embed.distributed import mesh
from embed.model.attention import RESIDUALS, AttentionMaskInfo, Reach, attention
from embed.model.config import AttentionSpec

RopeTable = tuple[jax.Array, jax.Array]  # cosines and sines
KeyValue = tuple[jax.Array, jax.Array]

# What remat keeps of a layer: products with weights, and what the attention kernel needs. Norms, activations and
# attention's inputs are recomputed.
REMAT_POLICY = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(RESIDUALS),
)


class Einsum(nn.Module):
    """A bias-free linear map: `equation` takes the input and a weight of `shape`, sharded as `weight_spec`.

    The weight is initialized normal with variance 1 / (product of its contracted sizes), stored in float32, and cast
    to the input's dtype at use. A clipped map (Gemma 4's towers) clips its input and output to `bounds`, four constants
    (input min, max, output min, max) that come with a checkpoint and are never trained.
    """

    equation: str
    shape: tuple[int, ...]
    weight_spec: P
    out_spec: P
    clipped: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        operands, output = self.equation.split("->")
        letters = operands.split(",")[1]
        fan_in = math.prod(size for letter, size in zip(letters, self.shape, strict=True) if letter not in output)
        init = nn.initializers.normal(fan_in**-0.5)
        weight = self.param("weight", init, self.shape, jnp.float32, self.weight_spec)
        if self.clipped:
            bounds = jax.lax.stop_gradient(self.param("bounds", no_clip)).astype(x.dtype)
            x = jnp.clip(x, bounds[0], bounds[1])
        # Leading axes are merged into one: on CPU a plain matrix product is 1.6 times as fast.
        inputs = operands.split(",")[0]
        lead = sum(letter not in letters for letter in inputs)
        rows = math.prod(x.shape[:lead])
        flat = x.reshape(rows, *x.shape[lead:], out_sharding=P(mesh.BATCH, *jax.typeof(x).sharding.spec[lead:]))
        equation = f"r{inputs[lead:]},{letters}->r{output[lead:]}"
        if x.dtype == jnp.bfloat16 and mesh.is_single_cpu() and letters.startswith(inputs[lead:]):
            flat, weight = (jax.reshard(a, P()) for a in (flat, weight.astype(x.dtype)))
            y = cpu_matmul(flat.reshape(rows, fan_in), weight.reshape(fan_in, -1))
            y = y.reshape(rows, *self.shape[len(inputs) - lead :])
        else:
            y = jnp.einsum(equation, flat, weight.astype(x.dtype), out_sharding=P(mesh.BATCH, *self.out_spec[lead:]))
        y = y.reshape(*x.shape[:lead], *y.shape[1:], out_sharding=self.out_spec)
        return jnp.clip(y, bounds[2], bounds[3]) if self.clipped else y


@jax.custom_vjp
def cpu_matmul(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x[r,i] @ weight[i,o] on one CPU.

    XLA computes the gradient of `weight` from a view of x with its axes exchanged, for which it has no fast product of
    bfloat16: a transposed copy is five times as fast.
    """
    return x @ weight


def _cpu_matmul_fwd(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ weight, (x, weight)


def _cpu_matmul_bwd(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, weight = saved
    return jnp.einsum("ro,io->ri", dy, weight), with_layout_constraint(x.T, Layout((0, 1))) @ dy


cpu_matmul.defvjp(_cpu_matmul_fwd, _cpu_matmul_bwd)


def no_clip(key: jax.Array) -> jax.Array:
    """Bounds f32[4] that clip nothing."""
    return jnp.array([-jnp.inf, jnp.inf, -jnp.inf, jnp.inf], jnp.float32)


class RMSNorm(nn.Module):
    """x / rms(x) over the last axis, in float32, times a learned scale initialized to `initial` (or no scale)."""

    scale: bool = True
    initial: float = 1.0
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        if self.scale:
            scale = self.param("scale", nn.initializers.constant(self.initial), x.shape[-1:], jnp.float32, mesh.VECTOR)
            y = jnp.einsum("...d,d->...d", y, _shard_as_last_axis(scale, y))
        return y.astype(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalization over the last axis, in float32."""

    bias: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32, mesh.VECTOR)
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        y = jnp.einsum("...d,d->...d", y, _shard_as_last_axis(scale, y))
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32, mesh.VECTOR)
            y = y + jnp.expand_dims(bias, range(x.ndim - 1))
        return y.astype(x.dtype)


def _shard_as_last_axis(vector: jax.Array, x: jax.Array) -> jax.Array:
    """A parameter [d] sharded as the last axis of x[...,d]."""
    return mesh.shard(vector, P(jax.typeof(x).sharding.spec[-1]))


def rope_frequencies(positions: jax.Array, spec: AttentionSpec, dtype: jnp.dtype) -> RopeTable:
    """Cosines and sines [b,l,1,a,r] of the angles at positions i32[b,l,a]; a = 1 for text, 2 for column and row.

    Every axis rotates its own k / a dimensions of a head. With `partial_rotary_factor` < 1 only that share of the
    frequencies rotates ("proportional" in Gemma 4): exponents stay relative to all of the head, other angles are zero.
    """
    axes = positions.shape[-1]
    size = spec.head_dim // axes
    index = jnp.arange(size // 2, dtype=jnp.float32)
    frequency = jnp.where(
        index < int(spec.partial_rotary_factor * (size // 2)), spec.rope_theta ** (-2 * index / size), 0.0
    )
    angle = rearrange(jnp.einsum("bla,r->blar", positions.astype(jnp.float32), frequency), "b l a r -> b l 1 a r")
    return jnp.cos(angle).astype(dtype), jnp.sin(angle).astype(dtype)


def apply_rope(x: jax.Array, rope: RopeTable) -> jax.Array:
    """Rotate x[b,l,h,k]: in each axis's part of k, the first half against the second."""
    cos, sin = rope
    first, second = rearrange(x, "b l h (a two r) -> two b l h a r", two=2, a=cos.shape[-2])
    rotated = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-2)
    return rearrange(rotated, "b l h a two r -> b l h (a two r)")


class Attention(nn.Module):
    """Grouped-query attention with normalized queries and keys, and values normalized without a scale, if at all."""

    spec: AttentionSpec
    reach: Reach
    d_model: int
    clipped: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, rope: RopeTable, info: AttentionMaskInfo, shared_kv: KeyValue | None
    ) -> tuple[jax.Array, KeyValue]:
        """x[b,l,d] -> [b,l,d] and the keys and values [b,l,g,k] it used: its own, or `shared_kv`."""
        spec = self.spec
        d = self.d_model
        shape = (d, spec.num_heads, spec.head_dim)
        q = Einsum("bld,dhk->blhk", shape, mesh.QUERY, mesh.HEADS, self.clipped, name="query")(x)
        q = apply_rope(RMSNorm(name="query_norm")(q), rope) * spec.score_scale
        kv = self._project_kv(x, rope) if shared_kv is None else shared_kv
        # A kv head serves num_heads / num_kv_heads query heads; repeated as often as sharding over `model` needs.
        split = jax.sharding.get_abstract_mesh().shape["model"]
        copies = split // math.gcd(split, spec.num_kv_heads)
        k, v = (jax.reshard(repeat(t, "b l g k -> b l (g r) k", r=copies), mesh.HEADS) for t in kv)
        y = attention(q, k, v, info, self.reach)
        shape = (spec.num_heads, spec.head_dim, d)
        out = Einsum("blhk,hkd->bld", shape, mesh.ATTENTION_OUT, mesh.TOKENS, self.clipped, name="out")
        return out(y), kv

    def _project_kv(self, x: jax.Array, rope: RopeTable) -> KeyValue:
        shape = (self.d_model, self.spec.num_kv_heads, self.spec.head_dim)

        def linear(name: str) -> jax.Array:
            return Einsum("bld,dgk->blgk", shape, mesh.KEY_VALUE, mesh.PATCHES, self.clipped, name=name)(x)

        k = linear("key")
        v = k if self.spec.key_is_value else linear("value")
        k = apply_rope(RMSNorm(name="key_norm")(k), rope)
        return k, RMSNorm(scale=False)(v) if self.spec.value_norm else v


class GatedFeedForward(nn.Module):
    """down(gelu(gate(x)) * up(x)), with the tanh form of gelu."""

    d_model: int
    d_ff: int
    clipped: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def up(name: str) -> jax.Array:
            shape = (self.d_model, self.d_ff)
            return Einsum("bld,df->blf", shape, mesh.UP, mesh.HIDDEN, self.clipped, name=name)(x)

        y = nn.gelu(up("gate"), approximate=True) * up("up")
        shape = (self.d_ff, self.d_model)
        return Einsum("blf,fd->bld", shape, mesh.DOWN, mesh.TOKENS, self.clipped, name="down")(y)


def apply_dropout(x: jax.Array, dropout: Dropout | None, branch: int) -> jax.Array:
    """Inverted dropout of x[b,...] with one key per row.

    The mask depends on the row's key, the index of the branch in its layer and the shape of a row, nothing else.
    """
    if dropout is None:
        return x
    keep = np.float32(1 - dropout.rate)  # float32 whatever the default: another dtype gives another mask

    def mask(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, branch), keep, x.shape[1:])

    return jnp.where(jax.vmap(mask)(dropout.key), x / (1 - dropout.rate), 0)


def transformer_block(
    x: jax.Array,
    rope: RopeTable,
    info: AttentionMaskInfo,
    spec: AttentionSpec,
    reach: Reach,
    d_ff: int,
    *,
    shared_kv: KeyValue | None = None,
    clipped: bool = False,
    initial: float = 1.0,
    dropout: Dropout | None = None,
) -> tuple[jax.Array, KeyValue]:
    """Attention and feed-forward on x[b,l,d], each between two norms and added to the residual stream (Gemma).

    Call it inside a module, whose submodules these become. `initial` is the initial scale of each branch, `dropout` has
    the rows' keys of this layer. Returns [b,l,d] and the keys and values used.
    """
    d = x.shape[-1]
    self_attention = Attention(spec, reach, d, clipped, name="attention")
    y, kv = self_attention(RMSNorm(name="attention_pre")(x), rope, info, shared_kv)
    x = x + apply_dropout(RMSNorm(initial=initial, name="attention_post")(y), dropout, 0)
    y = GatedFeedForward(d, d_ff, clipped, name="mlp")(RMSNorm(name="mlp_pre")(x))
    return x + apply_dropout(RMSNorm(initial=initial, name="mlp_post")(y), dropout, 1), kv


def scan_layers(body: Callable[[Any, Any], Any], carry: Any, xs: Any, unroll: int) -> Any:
    """carry = body(carry, x) for every x along the leading axis of `xs`: a scan with `unroll` steps per iteration.

    With `unroll` at the length or above it is a Python loop: a scan copies residuals into stacks and out again. A scan
    unrolls by the largest divisor of its length: jax cannot differentiate one with a remainder on an explicit mesh, as
    it stacks the remainder's residuals with another sharding.
    """
    count = jax.tree.leaves(xs)[0].shape[0]
    if unroll < count:
        divisor = max(n for n in range(1, unroll + 1) if count % n == 0)
        return jax.lax.scan(lambda carry, x: (body(carry, x), None), carry, xs, unroll=divisor)[0]
    for i in range(count):
        carry = body(carry, jax.tree.map(lambda leaf, i=i: leaf[i], xs))
    return carry


def stacked_init(module: nn.Module, count: int, *sample: Any) -> Callable[[jax.Array], dict]:
    """An initializer of the parameters of `count` modules, stacked along a leading axis for `scan_layers`.

    One key per module, whatever the mesh; `sample` gives shapes and shardings, its values do not matter.
    """

    def init(key: jax.Array) -> dict:
        keys = jax.random.split(key, count)
        return jax.vmap(lambda k: module.init(k, *sample)["params"])(keys)

    return init
