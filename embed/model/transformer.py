"""The bidirectional Gemma-4-family transformer: groups of local layers and one global layer, scanned twice over.

Sandwich norms, gated GELU, one learned scalar a layer; per-layer embeddings, keys shared with the values or with an
earlier group where the preset asks for them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from embed.batch import Dropout
from embed.distributed import mesh
from embed.model.attention import AttentionMaskInfo
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

# Trained from scratch, every branch starts small: the encoder begins as a bag of its tokens and learns to look around.
RESIDUAL_INIT_SCALE = 0.1

LayerPositions = tuple[RopeTable, AttentionMaskInfo]  # how a kind of layer sees positions
SharedKV = tuple[KeyValue | None, KeyValue]  # of the last local layer and the global one


class Layer(nn.Module):
    """One transformer layer."""

    arch: Architecture
    attention: AttentionSpec
    hidden: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        per_layer: jax.Array,
        view: LayerPositions,
        shared: KeyValue | None,
        dropout: Dropout | None,
    ) -> tuple[jax.Array, KeyValue]:
        """x[b,l,d], per_layer[b,l,p], `dropout` of key[b] -> [b,l,d] and the keys and values it used."""
        x, keys_values = transformer_block(
            x, *view, self.attention, self.hidden, shared=shared, initial=RESIDUAL_INIT_SCALE, dropout=dropout
        )
        p, d = self.arch.per_layer_dim, self.arch.d_model
        if p:
            gate = Einsum("bld,dp->blp", (d, p), mesh.OUT, mesh.TOKENS, name="per_layer_gate")(x)
            y = nn.gelu(gate, approximate=True) * per_layer
            y = Einsum("blp,pd->bld", (p, d), mesh.IN, mesh.TOKENS, name="per_layer_out")(y)
            x = x + apply_dropout(RMSNorm(initial=RESIDUAL_INIT_SCALE, name="per_layer_post")(y), dropout, 2)
        scalar = self.param("scalar", nn.initializers.ones, (), jnp.float32)
        return x * scalar.astype(x.dtype), keys_values


class Group(nn.Module):
    """`locals` local layers by `scan_layers` over stacked parameters, then one global layer."""

    arch: Architecture
    hidden: int
    remat: bool = False
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        per_layer: jax.Array,
        local_view: LayerPositions,
        global_view: LayerPositions,
        shared: SharedKV | None,
        dropout: Dropout | None = None,
    ) -> tuple[jax.Array, SharedKV]:
        """x[b,l,d], per_layer[n,b,l,p] for the n = locals + 1 layers of the group, `dropout` of key[n,b] -> [b,l,d],
        keys and values."""
        arch = self.arch
        local, whole = shared or (None, None)
        passed = arch.shared_kv_groups > 0 and shared is None  # later groups use this one's keys and values
        used = zero_kv(arch.local_attention, x) if passed else None
        if arch.local_per_group:
            one = Layer(arch, arch.local_attention, self.hidden, parent=None)
            params = self.param(
                "locals", stacked_init(one, arch.local_per_group, x, per_layer[0], local_view, local, None)
            )

            def body(carry: Any, xs: Any) -> Any:
                x, used = one.apply({"params": xs[0]}, carry[0], xs[1], local_view, local, xs[2])
                return x, used if passed else None

            body = jax.checkpoint(body, policy=REMAT_POLICY) if self.remat else body
            x, used = scan_layers(body, (x, used), (params, per_layer[:-1], _at(dropout, slice(-1))), self.unroll)
        kind = nn.remat(Layer, policy=REMAT_POLICY) if self.remat else Layer
        layer = kind(arch, arch.global_attention, self.hidden, name="global")
        x, whole = layer(x, per_layer[-1], global_view, whole, _at(dropout, -1))
        return x, (used, whole)


class Backbone(nn.Module):
    """All groups by `scan_layers` over stacked parameters (two compiled layers for any depth), then the final norm.

    `remat` recomputes of each layer what is cheap (`layers.KEPT`) in the backward pass; `unroll` writes out that many
    groups, and layers of a group, in the compiled loops (on CPU, where loops run slower than straight code, all).
    """

    arch: Architecture
    remat: bool = True
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
        """x[b,l,d] embedded tokens, their ids i32[b,l] (padding where media are), segments i32[b,l] (0 = padding),
        positions i32[b,l], `dropout` of key[b] -> [b,l,d]."""
        arch = self.arch
        own = arch.layer_groups - arch.shared_kv_groups
        local_view, global_view = (
            (rope_frequencies(positions[..., None], spec, x.dtype), AttentionMaskInfo(segments, positions))
            for spec in (arch.local_attention, arch.global_attention)
        )
        per_layer = PerLayerEmbedding(arch, name="per_layer")(x, tokens)
        dropout = _of_layers(dropout, arch)

        group = Group(arch, arch.d_ff, self.remat, self.unroll, parent=None)
        params = self.param("groups", stacked_init(group, own, x, per_layer[0], local_view, global_view, None))

        def step(carry: Any, xs: Any) -> Any:
            x, used = group.apply({"params": xs[0]}, carry[0], xs[1], local_view, global_view, None, xs[2])
            return x, used if arch.shared_kv_groups else None

        nobody = tuple(zero_kv(spec, x) for spec in (arch.local_attention, arch.global_attention))
        carry = (x, nobody if arch.shared_kv_groups else None)
        x, shared = scan_layers(step, carry, (params, per_layer[:own], _at(dropout, slice(own))), self.unroll)
        if arch.shared_kv_groups:
            sharing = Group(arch, arch.shared_d_ff, self.remat, self.unroll, parent=None)
            sample = (x, per_layer[0], local_view, global_view, shared)
            params = self.param("shared_groups", stacked_init(sharing, arch.shared_kv_groups, *sample))

            def share(x: Any, xs: Any) -> Any:
                return sharing.apply({"params": xs[0]}, x, xs[1], local_view, global_view, shared, xs[2])[0]

            x = scan_layers(share, x, (params, per_layer[own:], _at(dropout, slice(own, None))), self.unroll)
        return RMSNorm(name="final_norm")(x)


def zero_kv(spec: AttentionSpec, x: jax.Array) -> KeyValue:
    """What a first layer finds where the keys and values of the one before it go: zeros of their shape."""
    zeros = jnp.zeros((*x.shape[:2], spec.num_kv_heads, spec.head_dim), x.dtype, out_sharding=mesh.PATCHES)
    return zeros, zeros


def _of_layers(dropout: Dropout | None, arch: Architecture) -> Dropout | None:
    """key[b] of rows -> key[groups,n,b] of every layer's rows, for the n layers of a group."""

    def every(keys: jax.Array) -> jax.Array:
        own = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(keys, jnp.arange(arch.num_layers))
        return rearrange(own, "(g n) b -> g n b", g=arch.layer_groups)

    return jax.tree.map(every, dropout)


def _at(dropout: Dropout | None, layers: int | slice) -> Dropout | None:
    """The part of some layers, or of one."""
    return jax.tree.map(lambda keys: keys[layers], dropout)


class PerLayerEmbedding(nn.Module):
    """One small vector a token and layer, from the embedded input (EmbeddingGemma 2) and, where the preset has a
    token table, from the token itself (Gemma 4 E2B, E4B)."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """x[b,l,d], tokens i32[b,l] -> [groups,n,b,l,p] for the n layers of a group; p = 0 where there are none."""
        arch = self.arch
        n, p, d = arch.local_per_group + 1, arch.per_layer_dim, arch.d_model
        if not p:
            return jnp.zeros(
                (arch.layer_groups, n, *x.shape[:2], 0), x.dtype, out_sharding=jax.P(None, None, *mesh.TOKENS)
            )
        project = Einsum("bld,dnp->blnp", (d, arch.num_layers, p), mesh.PER_LAYER, mesh.PATCHES, name="project")
        y = RMSNorm(name="norm")(project(x) * d**-0.5)  # the factor matters where the norm's epsilon does
        if arch.per_layer_vocab_size:
            init = nn.initializers.normal(p**-0.5)
            shape = (arch.per_layer_vocab_size, arch.num_layers, p)
            table = self.param("table", init, shape, jnp.float32, mesh.PER_LAYER_TABLE)
            rows = table.at[tokens].get(out_sharding=mesh.PATCHES).astype(x.dtype)
            y = (y + rows * jnp.asarray(p**0.5, x.dtype)) * 2**-0.5
        return rearrange(y, "b l (g n) p -> g n b l p", g=arch.layer_groups)
