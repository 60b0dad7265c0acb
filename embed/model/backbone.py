"""The bidirectional Gemma-4-family transformer: groups of local layers and one global layer, scanned.

As EmbeddingGemma 2 and Gemma 4 have it: sandwich norms (before and after attention and feed-forward), gated GELU,
projection-only per-layer embeddings where the preset asks for them, one learned scalar a layer.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from embed import mesh
from embed.model.layers import Attention, Einsum, GatedFeedForward, RMSNorm, attention_mask
from embed.model.presets import Architecture, AttentionSpec

# Trained from scratch, every branch starts small: the encoder begins as a bag of its tokens and learns to look around.
BRANCH = 0.1


class Layer(nn.Module):
    """One transformer layer."""

    arch: Architecture
    attention: AttentionSpec

    @nn.compact
    def __call__(self, x: jax.Array, per_layer: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
        """x[b,l,d], per_layer[b,l,p], positions i32[b,l], mask bool[b,1,l,l] -> [b,l,d]."""
        arch = self.arch
        y = Attention(self.attention, arch.width, name="attention")(RMSNorm(name="attention_pre")(x), positions, mask)
        x = x + RMSNorm(initial=BRANCH, name="attention_post")(y)
        y = GatedFeedForward(arch.width, arch.hidden, name="mlp")(RMSNorm(name="mlp_pre")(x))
        x = x + RMSNorm(initial=BRANCH, name="mlp_post")(y)
        if arch.per_layer:
            p, d = arch.per_layer, arch.width
            gate = Einsum("bld,dp->blp", (d, p), mesh.OUT, mesh.TOKENS, name="per_layer_gate")(x)
            y = nn.gelu(gate, approximate=True) * per_layer
            y = Einsum("blp,pd->bld", (p, d), mesh.IN, mesh.TOKENS, name="per_layer_out")(y)
            x = x + RMSNorm(initial=BRANCH, name="per_layer_post")(y)
        scalar = self.param("scalar", nn.initializers.ones, (), jnp.float32)
        return x * scalar.astype(x.dtype)


class Group(nn.Module):
    """`locals` local layers, then one global layer."""

    arch: Architecture

    @nn.compact
    def __call__(
        self, x: jax.Array, per_layer: jax.Array, positions: jax.Array, local_mask: jax.Array, global_mask: jax.Array
    ) -> jax.Array:
        """x[b,l,d], per_layer[b,l,n,p] for the n = locals + 1 layers of the group -> [b,l,d]."""
        arch = self.arch
        for i in range(arch.locals):
            layer = Layer(arch, arch.local_attention, name=f"local_{i}")
            x = layer(x, per_layer[:, :, i], positions, local_mask)
        layer = Layer(arch, arch.global_attention, name="global")
        return layer(x, per_layer[:, :, -1], positions, global_mask)


class Backbone(nn.Module):
    """All groups by `lax.scan` over stacked parameters (one compiled body), then the final norm.

    `remat` recomputes each group's activations in the backward pass instead of keeping them; `unroll` writes out that
    many groups in the compiled loop (on CPU, where loops run slower than straight code, all of them).
    """

    arch: Architecture
    remat: bool = True
    unroll: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, segments: jax.Array, positions: jax.Array) -> jax.Array:
        """x[b,l,d] embedded tokens, segments i32[b,l] (0 = padding), positions i32[b,l] -> [b,l,d]."""
        arch = self.arch
        local_mask, global_mask = (
            attention_mask(segments, positions, spec.window) for spec in (arch.local_attention, arch.global_attention)
        )
        per_layer = PerLayerEmbedding(arch, name="per_layer")(x)
        group = Group(arch, parent=None)

        def init_groups(key: jax.Array) -> dict:
            # One key a group, whatever the mesh. The sample carries the layout, not the values.
            keys = jax.random.split(key, arch.groups)
            sample = (x, per_layer[0], positions, local_mask, global_mask)
            return jax.vmap(lambda k: group.init(k, *sample)["params"])(keys)

        stacked = self.param("groups", init_groups)

        def body(x: jax.Array, xs: tuple) -> tuple[Any, None]:
            params, per_layer = xs
            return group.apply({"params": params}, x, per_layer, positions, local_mask, global_mask), None

        x, _ = jax.lax.scan(jax.checkpoint(body) if self.remat else body, x, (stacked, per_layer), unroll=self.unroll)
        return RMSNorm(name="final_norm")(x)


class PerLayerEmbedding(nn.Module):
    """Projection-only per-layer embeddings (EmbeddingGemma 2): one vector a token and layer, from the embedded
    input."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x[b,l,d] -> [groups,b,l,n,p] for the n layers of a group; p = 0 where the preset has none."""
        arch = self.arch
        n, p, d = arch.locals + 1, arch.per_layer, arch.width
        if not p:
            return jnp.zeros((arch.groups, *x.shape[:2], n, 0), x.dtype, out_sharding=jax.P(None, *mesh.MASK))
        project = Einsum("bld,dnp->blnp", (d, arch.layers, p), mesh.PER_LAYER, mesh.PATCHES, name="project")
        y = RMSNorm(name="norm")(project(x) * d**-0.5)  # the factor matters where the norm's epsilon does
        return rearrange(y, "b l (g n) p -> g b l n p", g=arch.groups)
