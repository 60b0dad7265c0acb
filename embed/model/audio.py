"""Audio frames -> soft tokens: raw samples by one linear map, or mel frames by the Gemma 4 conformer."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import P

from embed.distributed import mesh
from embed.model.config import AudioTower
from embed.model.layers import REMAT_POLICY, Einsum, LayerNorm, RMSNorm, scan_layers, stacked_init


class FrameEmbedder(nn.Module):
    """Gemma 4 12B Unified: a norm and one linear map a frame of samples."""

    width: int

    @nn.compact
    def __call__(self, audio: jax.Array, mask: jax.Array) -> jax.Array:
        """audio [b,a,t,m] samples in -1..1 -> [b,a,t,d]. Padding frames give zeros."""
        shape = (audio.shape[-1], self.width)
        x = RMSNorm(scale=False)(audio)
        return Einsum("batm,md->batd", shape, mesh.IN, mesh.PATCHES, name="project")(x)


class Conformer(nn.Module):
    """Gemma 4's audio tower: two convolutions halve time and bins, conformer layers look back a short way."""

    tower: AudioTower
    width: int
    remat: bool = True
    unroll: int = 1

    @nn.compact
    def __call__(self, audio: jax.Array, mask: jax.Array) -> jax.Array:
        """audio [b,a,t,m] mel frames, mask bool[b,a,t] which are there; t a multiple of 4 -> [b,a,t/4,d]."""
        tower, w = self.tower, self.tower.d_model
        b, a, t, m = audio.shape
        x = audio.reshape(b * a, t, m, 1, out_sharding=mesh.PATCHES)
        mask = mask.reshape(b * a, t, out_sharding=mesh.EMBEDDINGS)
        for i, channels in enumerate(tower.conv_channels):
            x = jnp.where(mask[..., None, None], x, 0)
            x = HalvingConvolution(channels, name=f"halve_{i}")(x)
            mask = mask[:, ::2]
        shape = (m // 4, tower.conv_channels[-1], w)
        x = Einsum("ntfc,fcw->ntw", shape, mesh.FILTER, mesh.TOKENS, name="embed")(x)
        layer = ConformerLayer(tower, parent=None)
        params = self.param("layers", stacked_init(layer, tower.num_layers, x, mask))

        def body(x: Any, params: dict) -> Any:
            return layer.apply({"params": params}, x, mask)

        x = scan_layers(jax.checkpoint(body, policy=REMAT_POLICY) if self.remat else body, x, params, self.unroll)
        x = Einsum("ntw,wo->nto", (w, tower.output_dim), mesh.OUT, mesh.TOKENS, name="widen")(x)
        bias = self.param("bias", nn.initializers.zeros, (tower.output_dim,), jnp.float32, mesh.VECTOR)
        x = RMSNorm(scale=False)(x + bias.astype(x.dtype).reshape(1, 1, -1))
        x = Einsum("nto,od->ntd", (tower.output_dim, self.width), mesh.OUT, mesh.TOKENS, name="project")(x)
        return x.reshape(b, a, t // 4, self.width, out_sharding=mesh.PATCHES)


class HalvingConvolution(nn.Module):
    """A 3 x 3 convolution of stride 2 over time and bins, norm, relu."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n,t,f,c] -> [n,t/2,f/2,channels]"""
        _, t, f, c = x.shape
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        # The nine shifts side by side: a convolution is then a matrix product, as all else is.
        near = jnp.stack([jnp.stack([x[:, i : i + t : 2, j : j + f : 2] for j in range(3)], 3) for i in range(3)], 3)
        shape = (3, 3, c, self.channels)
        x = Einsum("ntfyxc,yxco->ntfo", shape, mesh.KERNEL, mesh.PATCHES, name="convolve")(near)
        return nn.relu(LayerNorm(bias=False, epsilon=1e-6, name="norm")(x))


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, norm (arXiv 2005.08100)."""

    tower: AudioTower

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """x [n,t,w], mask bool[n,t] -> [n,t,w]"""
        tower, bound = self.tower, self.tower.activation_clip
        x = HalfFeedForward(tower, name="start")(x)
        y = RMSNorm(name="attention_pre")(jnp.clip(x, -bound, bound))
        y = ChunkedAttention(tower, name="attention")(y, mask)
        x = x + RMSNorm(name="attention_post")(jnp.clip(y, -bound, bound))
        x = CausalConvolution(tower, name="convolution")(x)
        x = HalfFeedForward(tower, name="end")(x)
        return RMSNorm(name="norm")(jnp.clip(x, -bound, bound))


class HalfFeedForward(nn.Module):
    """A silu feed-forward between norms, weighted by `residual`."""

    tower: AudioTower

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        tower, w, bound = self.tower, self.tower.d_model, self.tower.activation_clip
        y = RMSNorm(name="pre")(jnp.clip(x, -bound, bound))
        y = Einsum("ntw,wf->ntf", (w, 4 * w), mesh.UP, mesh.HIDDEN, tower.clipped, name="up")(y)
        y = Einsum("ntf,fw->ntw", (4 * w, w), mesh.DOWN, mesh.TOKENS, tower.clipped, name="down")(nn.silu(y))
        return x + tower.ffn_residual_weight * RMSNorm(name="post")(jnp.clip(y, -bound, bound))


class CausalConvolution(nn.Module):
    """A gated linear map, a convolution over time by channel that looks back only, a linear map."""

    tower: AudioTower

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        tower, w = self.tower, self.tower.d_model
        y = RMSNorm(name="pre")(x)
        y = Einsum("ntw,wgv->ntgv", (w, 2, w), mesh.GATE, mesh.GATED, tower.clipped, name="begin")(y)
        y = y[:, :, 0] * nn.sigmoid(y[:, :, 1])
        init = nn.initializers.normal(tower.conv_kernel**-0.5)
        weight = self.param("weight", init, (tower.conv_kernel, w), jnp.float32, mesh.DEPTHWISE).astype(y.dtype)
        padded, t = jnp.pad(y, ((0, 0), (tower.conv_kernel - 1, 0), (0, 0))), y.shape[1]
        shifted = [padded[:, i : i + t] * weight[i].reshape(1, 1, w) for i in range(tower.conv_kernel)]
        y = functools.reduce(jnp.add, shifted)
        y = nn.silu(RMSNorm(name="norm")(jnp.clip(y, -tower.activation_clip, tower.activation_clip)))
        return x + Einsum("ntv,vw->ntw", (w, w), mesh.DOWN, mesh.TOKENS, tower.clipped, name="finish")(y)


class ChunkedAttention(nn.Module):
    """Local attention with relative positions (arXiv 1901.02860): blocks of queries see the frames around them."""

    tower: AudioTower

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """x [n,t,w], mask bool[n,t] -> [n,t,w]"""
        tower, w, h, chunk = self.tower, self.tower.d_model, self.tower.num_heads, self.tower.chunk_size
        before, k, t = tower.left_context - 1, w // h, x.shape[1]
        blocks = -(-t // chunk)
        context = chunk + before + tower.right_context

        def linear(name: str) -> jax.Array:
            shape = (w, h, k)
            y = Einsum("ntw,whk->nthk", shape, mesh.QUERY, mesh.HEADS, tower.clipped, name=name)(x)
            return y.astype(jnp.float32)

        fine = self.param("fine", nn.initializers.zeros, (k,), jnp.float32, mesh.VECTOR)
        q = linear("query") * (k**-0.5 / math.log(2) * jax.nn.softplus(fine)).reshape(1, 1, 1, k)
        q = jnp.pad(q, ((0, 0), (0, blocks * chunk - t), (0, 0), (0, 0)))
        q = mesh.shard(rearrange(q, "n (b c) h k -> n b c h k", c=chunk), P(mesh.BATCH, None, None, "model"))
        # Block b sees the frames from b * chunk - before to (b + 1) * chunk + right.
        place = np.arange(blocks)[:, None] * chunk + np.arange(context)

        def around(y: jax.Array) -> jax.Array:
            y = jnp.pad(y, ((0, 0), (before, blocks * chunk - t + tower.right_context), *((0, 0),) * (y.ndim - 2)))
            spec = jax.typeof(y).sharding.spec
            return y.at[:, place].get(out_sharding=P(mesh.BATCH, None, None, *spec[2:]))

        keys = around(linear("key") * (math.log(1 + math.e) / math.log(2)))
        values = around(linear("value"))
        distance = np.arange(chunk)[:, None] - np.arange(context) + before  # of query c from frame x; < 0 = after it
        near = ((distance >= 0) & (distance < before)) | ((distance < 0) & (-distance < tower.right_context))
        seen = around(mask)[:, :, None, None] & near[None, None, None]

        scores = jnp.einsum("nbchk,nbxhk->nbhcx", q, keys) + self._relative(q, x.dtype, context)
        scores = tower.logit_cap * jnp.tanh(scores / tower.logit_cap)
        weights = jax.nn.softmax(jnp.where(seen, scores, -1e9), axis=-1)
        y = rearrange(jnp.einsum("nbhcx,nbxhk->nbchk", weights, values), "n b c h k -> n (b c) h k")[:, :t]
        out = Einsum("nthk,hkw->ntw", (h, k, w), mesh.ATTENTION_OUT, mesh.TOKENS, tower.clipped, name="out")
        return out(y.astype(x.dtype))

    def _relative(self, q: jax.Array, dtype: jnp.dtype, context: int) -> jax.Array:
        """q f32[n,b,c,h,k] against a sinusoid of how far back a frame lies -> [n,b,h,c,context]."""
        w, (h, k) = self.tower.d_model, q.shape[-2:]
        back = np.arange(context // 2, -1, -1)
        rates = np.exp(np.arange(w // 2) * -(math.log(1e4) / max(w // 2 - 1, 1)))
        angle = (back[:, None] * rates).astype(np.float32)
        table = jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], axis=-1), dtype)
        weight = self.param("relative", nn.initializers.normal(w**-0.5), (w, h, k), jnp.float32, mesh.QUERY)
        keys = jnp.einsum("rw,whk->rhk", table, weight.astype(dtype), out_sharding=P(None, "model", None))
        scores = jnp.einsum("nbchk,rhk->nbhcr", q, keys.astype(jnp.float32))
        # Row c belongs c places further right: written one longer each, the rows shift by themselves.
        c, r = scores.shape[-2:]
        scores = jnp.pad(scores, ((0, 0),) * 4 + ((0, context + 1 - r),))
        scores = rearrange(scores, "n b h c x -> n b h (c x)")[..., : c * context]
        return rearrange(scores, "n b h (c x) -> n b h c x", c=c)
