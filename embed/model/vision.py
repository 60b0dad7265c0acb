"""Image and video-frame patches -> soft tokens: by one linear map, or by the Gemma 4 vision transformer.

Both take the same patches, one per soft token; the transformer splits them into smaller ones itself, so that those it
averages are adjacent whatever the image's shape.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, reduce

from embed.distributed import mesh
from embed.model.attention import AttentionMaskInfo, bidirectional
from embed.model.config import VisionTower
from embed.model.layers import (
    REMAT_POLICY,
    Einsum,
    LayerNorm,
    RMSNorm,
    RopeTable,
    rope_frequencies,
    scan_layers,
    stacked_init,
    transformer_block,
)


def position_embedding_2d(table: jax.Array, xy: jax.Array) -> jax.Array:
    """table[positions,2,d], xy i32[...,p,2] -> [...,p,d]: embedding of the column plus that of the row; zeros for
    padding (-1)."""

    def look_up(axis: int) -> jax.Array:
        index = xy[..., axis]
        spec = jax.P(*jax.typeof(index).sharding.spec, None)
        rows = table[:, axis].at[jnp.maximum(index, 0)].get(out_sharding=spec)
        return jnp.where(index[..., None] >= 0, rows, 0)

    return look_up(0) + look_up(1)


class PatchEmbedder(nn.Module):
    """Gemma 4 12B Unified: norm, linear map, norm, position embedding, norm; then a linear map into the backbone."""

    d_model: int
    num_positions: int

    @nn.compact
    def __call__(self, patches: jax.Array, xy: jax.Array) -> jax.Array:
        """patches [b,i,p,c] in 0..1, xy i32[b,i,p,2] column and row (-1 = padding) -> [b,i,p,d]."""
        d = self.d_model
        c = patches.shape[-1]
        x = LayerNorm(name="patch_norm")(patches)
        x = Einsum("bipc,cd->bipd", (c, d), mesh.IN, mesh.PATCHES, name="embed")(x)
        bias = self.param("bias", nn.initializers.zeros, (d,), jnp.float32, mesh.VECTOR)
        x = LayerNorm(name="embed_norm")(x + bias.astype(x.dtype).reshape(1, 1, 1, d))
        init = nn.initializers.normal(0.02)
        table = self.param("position", init, (self.num_positions, 2, d), jnp.float32, mesh.TABLE)
        x = LayerNorm(name="position_norm")(x + position_embedding_2d(table.astype(x.dtype), xy))
        x = RMSNorm(scale=False)(x)
        return Einsum("bipd,de->bipe", (d, d), mesh.OUT, mesh.PATCHES, name="project")(x)


class VisionLayer(nn.Module):
    """One layer of the vision transformer, bidirectional."""

    tower: VisionTower

    @nn.compact
    def __call__(self, x: jax.Array, rope: RopeTable, info: AttentionMaskInfo) -> jax.Array:
        tower = self.tower
        reach = bidirectional(tower.attention.window)
        x, _ = transformer_block(x, rope, info, tower.attention, reach, tower.d_ff, clipped=tower.clipped)
        return x


class VisionTransformer(nn.Module):
    """Gemma 4's vision tower: full attention within an image, with rotary positions by column and row."""

    tower: VisionTower
    d_model: int
    remat: bool = False
    unroll: int = 1

    @nn.compact
    def __call__(self, patches: jax.Array, xy: jax.Array) -> jax.Array:
        """patches [b,i,p,c] in 0..1, xy i32[b,i,p,2] column and row (-1 = padding) -> [b,i,p,d]."""
        tower = self.tower
        w = tower.d_model
        k = tower.pool_size
        b, i, p, c = patches.shape
        # One image per row; each patch is split into k x k small ones, row by row, which stay adjacent.
        side = round((c / 3) ** 0.5) // k
        x = (2 * patches - 1).reshape(b * i, p, c, out_sharding=mesh.TOKENS)
        x = rearrange(x, "n p (ky y kx x c) -> n p ky kx y x c", ky=k, kx=k, y=side, x=side)
        x = x.reshape(b * i, p * k * k, side * side * 3, out_sharding=mesh.TOKENS)
        corner = k * xy.reshape(b * i, p, 1, 2, out_sharding=mesh.PATCHES)
        offsets = jnp.stack(jnp.meshgrid(jnp.arange(k), jnp.arange(k)), axis=-1).reshape(1, 1, k * k, 2)
        small_xy = jnp.where(corner >= 0, corner + offsets, -1).reshape(b * i, p * k * k, 2, out_sharding=mesh.TOKENS)

        x = Einsum("npc,cw->npw", (c // k**2, w), mesh.IN, mesh.TOKENS, name="embed")(x)
        table = self.param(
            "position", nn.initializers.normal(0.02), (tower.num_positions, 2, w), jnp.float32, mesh.TABLE
        )
        x = x + position_embedding_2d(table.astype(x.dtype), small_xy)
        present = (small_xy[..., 0] >= 0).astype(jnp.int32)
        rope = rope_frequencies(small_xy, tower.attention, x.dtype)
        info = AttentionMaskInfo(present, present)
        layer = VisionLayer(tower, parent=None)
        params = self.param("layers", stacked_init(layer, tower.num_layers, x, rope, info))

        def body(x: jax.Array, params: dict) -> Any:
            return layer.apply({"params": params}, x, rope, info)

        x = scan_layers(jax.checkpoint(body, policy=REMAT_POLICY) if self.remat else body, x, params, self.unroll)

        # Values are large, hence float32: the mean of k x k small patches, times sqrt(w).
        y = reduce(x.astype(jnp.float32), "n (p q) w -> n p w", "mean", q=k * k)
        y = y.astype(x.dtype).astype(jnp.float32) * w**0.5
        if tower.standardized:
            shift = self.param("shift", nn.initializers.zeros, (w,), jnp.float32, mesh.VECTOR)
            scale = self.param("stretch", nn.initializers.ones, (w,), jnp.float32, mesh.VECTOR)
            shift, scale = (jax.lax.stop_gradient(constant).reshape(1, 1, w) for constant in (shift, scale))
            y = (y - shift) * scale
        y = RMSNorm(scale=False)(y.astype(x.dtype))
        y = Einsum("npw,wd->npd", (w, self.d_model), mesh.OUT, mesh.TOKENS, name="project")(y)
        return y.reshape(b, i, p, self.d_model, out_sharding=mesh.PATCHES)
