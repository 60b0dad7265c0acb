"""The Gemma transformer: groups of local layers and one global layer, two nested scans.

Norms before and after each branch, gated GELU; where the preset has them, one learned scalar per layer, per-layer
embeddings, values that are the keys, groups that share keys and values, and an incomplete last group.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from embed.batch import Dropout
from embed.distributed import mesh
from embed.model.attention import AttentionMaskInfo, find_reach
from embed.model.config import Architecture, AttentionSpec
from embed.model.layers import (
    REMAT_POLICY,
    Einsum,
    KeyValue,
    RMSNorm,
    RopeTable,
    apply_dropout,
    rope_frequencies,
    scan_layers,
    stacked_init,
    transformer_block,
)

# Initial scale of every branch when trained from scratch: the encoder begins as a bag of tokens.
RESIDUAL_INIT_SCALE = 0.1

LayerPositions = tuple[RopeTable, AttentionMaskInfo]  # of one kind of layer, local or global
SharedKV = tuple[KeyValue | None, KeyValue]  # of the last local layer and of the global one


class Layer(nn.Module):
    """One transformer layer."""

    arch: Architecture
    attention: AttentionSpec
    d_ff: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        per_layer: jax.Array,
        positions: LayerPositions,
        shared_kv: KeyValue | None,
        dropout: Dropout | None,
    ) -> tuple[jax.Array, KeyValue]:
        """x[b,l,d], per_layer[b,l,p], `dropout` of key[b] -> [b,l,d] and the keys and values it used."""
        arch = self.arch
        spec = self.attention
        reach = find_reach(arch.attention, spec.window)
        initial = RESIDUAL_INIT_SCALE
        x, kv = transformer_block(
            x, *positions, spec, reach, self.d_ff, shared_kv=shared_kv, initial=initial, dropout=dropout
        )
        p = arch.per_layer_dim
        d = arch.d_model
        if p:
            gate = Einsum("bld,dp->blp", (d, p), mesh.OUT, mesh.TOKENS, name="per_layer_gate")(x)
            y = nn.gelu(gate, approximate=True) * per_layer
            y = Einsum("blp,pd->bld", (p, d), mesh.IN, mesh.TOKENS, name="per_layer_out")(y)
            x = x + apply_dropout(RMSNorm(initial=initial, name="per_layer_post")(y), dropout, 2)
        if arch.layer_scalar:
            x = x * self.param("scalar", nn.initializers.ones, (), jnp.float32).astype(x.dtype)
        return x, kv


class Group(nn.Module):
    """`num_locals` local layers by `scan_layers` over stacked parameters, then one global layer (`has_global`)."""

    arch: Architecture
    d_ff: int
    num_locals: int
    has_global: bool = True
    remat: bool = False
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        per_layer: jax.Array,
        local_positions: LayerPositions,
        global_positions: LayerPositions,
        shared_kv: SharedKV | None,
        dropout: Dropout | None = None,
    ) -> tuple[jax.Array, SharedKV | None]:
        """x[b,l,d], per_layer[n,b,l,p] for the n layers of the group, `dropout` of key[n,b] -> [b,l,d], keys and
        values."""
        arch = self.arch
        n = self.num_locals
        local_kv, global_kv = shared_kv or (None, None)
        exports_kv = arch.shared_kv_groups > 0 and shared_kv is None  # later groups use the keys and values of this one
        last_kv = zero_kv(arch.local_attention, x) if exports_kv else None
        if n:
            layer = Layer(arch, arch.local_attention, self.d_ff, parent=None)
            init = stacked_init(layer, n, x, per_layer[0], local_positions, local_kv, None)
            params = self.param("locals", init)

            def body(carry: Any, xs: Any) -> Any:
                x, kv = layer.apply({"params": xs[0]}, carry[0], xs[1], local_positions, local_kv, xs[2])
                return x, kv if exports_kv else None

            body = jax.checkpoint(body, policy=REMAT_POLICY) if self.remat else body
            xs = (params, per_layer[:n], _select_layers(dropout, slice(n)))
            x, last_kv = scan_layers(body, (x, last_kv), xs, self.unroll)
        if not self.has_global:
            return x, None
        layer_class = nn.remat(Layer, policy=REMAT_POLICY) if self.remat else Layer
        global_layer = layer_class(arch, arch.global_attention, self.d_ff, name="global")
        x, global_kv = global_layer(x, per_layer[-1], global_positions, global_kv, _select_layers(dropout, -1))
        return x, (last_kv, global_kv)


class Backbone(nn.Module):
    """All groups by `scan_layers` over stacked parameters (two compiled layers for any depth), then the final norm.

    `remat` recomputes the cheap parts of each layer in the backward pass (see `layers.REMAT_POLICY`); `unroll` writes
    out that many groups, and layers of a group, per iteration of the compiled loops (on CPU: all of them).
    """

    arch: Architecture
    remat: bool = False
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        tokens: jax.Array,
        segments: jax.Array,
        positions: jax.Array,
        dropout: Dropout | None = None,
    ) -> jax.Array:
        """x[b,l,d] embedded tokens, their ids i32[b,l] (padding in place of media), segments i32[b,l] (0 = padding),
        positions i32[b,l], `dropout` of key[b] -> [b,l,d]."""
        arch = self.arch
        num_unshared = arch.layer_groups - arch.shared_kv_groups  # groups with keys and values of their own
        info = AttentionMaskInfo(segments, positions)

        def layer_positions(spec: AttentionSpec) -> LayerPositions:
            return rope_frequencies(positions[..., None], spec, x.dtype), info

        local_positions = layer_positions(arch.local_attention)
        global_positions = layer_positions(arch.global_attention)
        per_layer = PerLayerEmbedding(arch, name="per_layer")(x, tokens)
        dropout = _per_layer_keys(dropout, arch)
        (per_layer, dropout), (last_per_layer, last_dropout) = _split_groups((per_layer, dropout), arch)

        group = Group(arch, arch.d_ff, arch.local_per_group, remat=self.remat, unroll=self.unroll, parent=None)
        init = stacked_init(group, num_unshared, x, per_layer[0], local_positions, global_positions, None)
        params = self.param("groups", init)

        def step(carry: Any, xs: Any) -> Any:
            x, kv = group.apply({"params": xs[0]}, carry[0], xs[1], local_positions, global_positions, None, xs[2])
            return x, kv if arch.shared_kv_groups else None

        initial_kv = tuple(zero_kv(spec, x) for spec in (arch.local_attention, arch.global_attention))
        xs = (params, per_layer[:num_unshared], _select_layers(dropout, slice(num_unshared)))
        x, shared_kv = scan_layers(step, (x, initial_kv if arch.shared_kv_groups else None), xs, self.unroll)
        if arch.shared_kv_groups:
            d_ff = arch.shared_d_ff
            sharing = Group(arch, d_ff, arch.local_per_group, remat=self.remat, unroll=self.unroll, parent=None)
            sample = (x, per_layer[0], local_positions, global_positions, shared_kv)
            params = self.param("shared_groups", stacked_init(sharing, arch.shared_kv_groups, *sample))

            def sharing_step(x: Any, xs: Any) -> Any:
                positions = local_positions, global_positions
                return sharing.apply({"params": xs[0]}, x, xs[1], *positions, shared_kv, xs[2])[0]

            xs = (params, per_layer[num_unshared:], _select_layers(dropout, slice(num_unshared, None)))
            x = scan_layers(sharing_step, x, xs, self.unroll)
        if arch.last_locals:
            last = Group(arch, arch.d_ff, arch.last_locals, False, self.remat, self.unroll, name="last_group")
            x, _ = last(x, last_per_layer, local_positions, global_positions, None, last_dropout)
        return RMSNorm(name="final_norm")(x)


def zero_kv(spec: AttentionSpec, x: jax.Array) -> KeyValue:
    """Zeros of the shape of a layer's keys and values: the scan's initial carry."""
    zeros = jnp.zeros((*x.shape[:2], spec.num_kv_heads, spec.head_dim), x.dtype, out_sharding=mesh.PATCHES)
    return zeros, zeros


def _per_layer_keys(dropout: Dropout | None, arch: Architecture) -> Dropout | None:
    """key[b] of rows -> key[layers,b] of every layer's rows."""
    fold_in = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))
    return jax.tree.map(lambda keys: fold_in(keys, jnp.arange(arch.num_layers)), dropout)


def _split_groups(by_layer: Any, arch: Architecture) -> tuple[Any, Any]:
    """Arrays [layers,...] -> [groups,n,...] of the whole groups of n layers, and [last_locals,...]."""
    count = arch.num_layers - arch.last_locals

    def to_groups(x: jax.Array) -> jax.Array:
        return rearrange(x[:count], "(g n) ... -> g n ...", g=arch.layer_groups)

    return jax.tree.map(to_groups, by_layer), jax.tree.map(lambda x: x[count:], by_layer)


def _select_layers(dropout: Dropout | None, layers: int | slice) -> Dropout | None:
    """The keys of some layers, or of one."""
    return jax.tree.map(lambda keys: keys[layers], dropout)


class PerLayerEmbedding(nn.Module):
    """A small vector per token and layer: projected from the embedded input (EmbeddingGemma 2), plus a row of a token
    table where the preset has one (Gemma 4 E2B, E4B)."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """x[b,l,d], tokens i32[b,l] -> [layers,b,l,p]; p = 0 without such embeddings."""
        arch = self.arch
        p = arch.per_layer_dim
        d = arch.d_model
        if not p:
            shape = (arch.num_layers, *x.shape[:2], 0)
            return jnp.zeros(shape, x.dtype, out_sharding=jax.P(None, *mesh.TOKENS))
        project = Einsum("bld,dnp->blnp", (d, arch.num_layers, p), mesh.PER_LAYER, mesh.PATCHES, name="project")
        y = RMSNorm(name="norm")(project(x) * d**-0.5)  # the factor matters where the norm's epsilon does
        if arch.per_layer_vocab_size:
            init = nn.initializers.normal(p**-0.5)
            shape = (arch.per_layer_vocab_size, arch.num_layers, p)
            table = self.param("table", init, shape, jnp.float32, mesh.PER_LAYER_TABLE)
            rows = table.at[tokens].get(out_sharding=mesh.PATCHES).astype(x.dtype)
            y = (y + rows * jnp.asarray(p**0.5, x.dtype)) * 2**-0.5
        return rearrange(y, "b l n p -> n b l p")
