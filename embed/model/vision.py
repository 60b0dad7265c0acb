"""Image and video-frame patches -> soft tokens: by one linear map, or by the Gemma 4 vision transformer.

Both take the same patches, one a soft token; the transformer splits them into smaller ones itself, so that the ones it
averages lie side by side whatever the image's shape.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, reduce

from embed.distributed import mesh
from embed.model.attention import AttentionMaskInfo
from embed.model.config import VisionTower
from embed.model.layers import (
    REMAT_POLICY,
    Einsum,
    LayerNorm,
    RMSNorm,
    rope_frequencies,
    scan_layers,
    stacked_init,
    transformer_block,
)


def position_embedding_2d(table: jax.Array, xy: jax.Array) -> jax.Array:
    """table[positions,2,d], xy i32[...,p,2] -> [...,p,d]: a column's row plus a row's row; zeros for padding (-1)."""

    def along(axis: int) -> jax.Array:
        index = xy[..., axis]
        spec = jax.P(*jax.typeof(index).sharding.spec, None)
        rows = table[:, axis].at[jnp.maximum(index, 0)].get(out_sharding=spec)
        return jnp.where(index[..., None] >= 0, rows, 0)

    return along(0) + along(1)


class PatchEmbedder(nn.Module):
    """Gemma 4 12B Unified: norm, linear map, norm, where the patch lies, norm; then into the backbone's width."""

    width: int
    positions: int

    @nn.compact
    def __call__(self, patches: jax.Array, xy: jax.Array) -> jax.Array:
        """patches [b,i,p,c] in 0..1, xy i32[b,i,p,2] column and row (-1 = padding) -> [b,i,p,d]."""
        d, c = self.width, patches.shape[-1]
        x = LayerNorm(name="patch_norm")(patches)
        x = Einsum("bipc,cd->bipd", (c, d), mesh.IN, mesh.PATCHES, name="embed")(x)
        bias = self.param("bias", nn.initializers.zeros, (d,), jnp.float32, mesh.VECTOR)
        x = LayerNorm(name="embed_norm")(x + bias.astype(x.dtype).reshape(1, 1, 1, d))
        init = nn.initializers.normal(0.02)
        table = self.param("position", init, (self.positions, 2, d), jnp.float32, mesh.TABLE)
        x = LayerNorm(name="position_norm")(x + position_embedding_2d(table.astype(x.dtype), xy))
        x = RMSNorm(scale=False)(x)
        return Einsum("bipd,de->bipe", (d, d), mesh.OUT, mesh.PATCHES, name="project")(x)


class VisionLayer(nn.Module):
    """One layer of the vision transformer."""

    tower: VisionTower

    @nn.compact
    def __call__(self, x: jax.Array, turn: Any, places: AttentionMaskInfo) -> jax.Array:
        return transformer_block(x, turn, places, self.tower.attention, self.tower.d_ff, clipped=self.tower.clipped)[0]


class VisionTransformer(nn.Module):
    """Gemma 4's vision tower: patches see those of their image, with rotary positions by column and row."""

    tower: VisionTower
    width: int
    remat: bool = True
    unroll: int = 1

    @nn.compact
    def __call__(self, patches: jax.Array, xy: jax.Array) -> jax.Array:
        """patches [b,i,p,c] in 0..1, xy i32[b,i,p,2] column and row (-1 = padding) -> [b,i,p,d]."""
        tower, w, k = self.tower, self.tower.d_model, self.tower.pool_size
        b, i, p, c = patches.shape
        # One image a row; each patch falls into k x k small ones, row by row, which stay next to each other.
        side = round((c / 3) ** 0.5) // k
        x = (2 * patches - 1).reshape(b * i, p, c, out_sharding=mesh.TOKENS)
        x = rearrange(x, "n p (ky y kx x c) -> n p ky kx y x c", ky=k, kx=k, y=side, x=side)
        x = x.reshape(b * i, p * k * k, side * side * 3, out_sharding=mesh.TOKENS)
        corner = k * xy.reshape(b * i, p, 1, 2, out_sharding=mesh.PATCHES)
        within = jnp.stack(jnp.meshgrid(jnp.arange(k), jnp.arange(k)), axis=-1).reshape(1, 1, k * k, 2)
        small = jnp.where(corner >= 0, corner + within, -1).reshape(b * i, p * k * k, 2, out_sharding=mesh.TOKENS)

        x = Einsum("npc,cw->npw", (c // k**2, w), mesh.IN, mesh.TOKENS, name="embed")(x)
        table = self.param(
            "position", nn.initializers.normal(0.02), (tower.num_positions, 2, w), jnp.float32, mesh.TABLE
        )
        x = x + position_embedding_2d(table.astype(x.dtype), small)
        present = (small[..., 0] >= 0).astype(jnp.int32)
        turn, places = rope_frequencies(small, tower.attention, x.dtype), AttentionMaskInfo(present, present)
        layer = VisionLayer(tower, parent=None)
        params = self.param("layers", stacked_init(layer, tower.num_layers, x, turn, places))

        def body(x: Any, params: dict) -> Any:
            return layer.apply({"params": params}, x, turn, places)

        x = scan_layers(jax.checkpoint(body, policy=REMAT_POLICY) if self.remat else body, x, params, self.unroll)

        # Large numbers, and in float32 for it: the mean of a square, times sqrt(w).
        y = reduce(x.astype(jnp.float32), "n (p q) w -> n p w", "mean", q=k * k)
        y = y.astype(x.dtype).astype(jnp.float32) * w**0.5
        if tower.standardized:
            shift, scale = (
                jax.lax.stop_gradient(self.param(name, init, (w,), jnp.float32, mesh.VECTOR)).reshape(1, 1, w)
                for name, init in (("shift", nn.initializers.zeros), ("stretch", nn.initializers.ones))
            )
            y = (y - shift) * scale
        y = RMSNorm(scale=False)(y.astype(x.dtype))
        y = Einsum("npw,wd->npd", (w, self.width), mesh.OUT, mesh.TOKENS, name="project")(y)
        return y.reshape(b, i, p, self.width, out_sharding=mesh.PATCHES)
