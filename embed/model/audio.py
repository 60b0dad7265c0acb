"""Raw audio frames -> soft tokens, encoder-free as Gemma 4 12B Unified does it: 640 samples (40 ms), a norm, a linear
map."""

import flax.linen as nn
import jax

from embed import mesh
from embed.model.layers import Einsum, RMSNorm


class FrameEmbedder(nn.Module):
    """One linear map a frame."""

    width: int

    @nn.compact
    def __call__(self, audio: jax.Array) -> jax.Array:
        """audio [b,a,t,m] samples in -1..1 -> [b,a,t,d]. Padding frames give zeros."""
        shape = (audio.shape[-1], self.width)
        x = RMSNorm(scale=False)(audio)
        return Einsum("batm,md->batd", shape, mesh.IN, mesh.PATCHES, name="project")(x)
