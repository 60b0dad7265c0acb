"""Image and video-frame patches -> soft tokens, encoder-free as Gemma 4 12B Unified does it.

LayerNorm, linear, LayerNorm, + factorised 2-D position, LayerNorm, then the norm and projection into the backbone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from embed import mesh
from embed.model.layers import Einsum, LayerNorm, RMSNorm


class PatchEmbedder(nn.Module):
    """One linear map a patch, and where the patch lies."""

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
        table = self.param("position", init, (self.positions, 2, d), jnp.float32, mesh.TABLE).astype(x.dtype)
        for axis in range(2):
            index = xy[..., axis]
            row = table[:, axis].at[jnp.maximum(index, 0)].get(out_sharding=mesh.PATCHES)
            x = x + jnp.where(index[..., None] >= 0, row, 0)
        x = LayerNorm(name="position_norm")(x)
        x = RMSNorm(scale=False)(x)
        return Einsum("bipd,de->bipe", (d, d), mesh.OUT, mesh.PATCHES, name="project")(x)
