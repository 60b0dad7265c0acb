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
    """Gemma 4 12B Unified: a norm and one linear map per frame of samples."""

    d_model: int

    @nn.compact
    def __call__(self, audio: jax.Array, mask: jax.Array) -> jax.Array:
        """audio [b,a,t,m] samples in -1..1 -> [b,a,t,d]. Padding frames give zeros."""
        shape = (audio.shape[-1], self.d_model)
        x = RMSNorm(scale=False)(audio)
        return Einsum("batm,md->batd", shape, mesh.IN, mesh.PATCHES, name="project")(x)


class Conformer(nn.Module):
    """Gemma 4's audio tower: two convolutions of stride 2 over time and mel bins, then conformer layers with local
    attention."""

    tower: AudioTower
    d_model: int
    remat: bool = False
    unroll: int = 1

    @nn.compact
    def __call__(self, audio: jax.Array, mask: jax.Array) -> jax.Array:
        """audio [b,a,t,m] mel frames, mask bool[b,a,t] (False = padding); t a multiple of 4 -> [b,a,t/4,d]."""
        tower = self.tower
        w = tower.d_model
        b, a, t, m = audio.shape
        x = audio.reshape(b * a, t, m, 1, out_sharding=mesh.PATCHES)
        mask = mask.reshape(b * a, t, out_sharding=mesh.EMBEDDINGS)
        for i, channels in enumerate(tower.conv_channels):
            x = jnp.where(mask[..., None, None], x, 0)
            x = SubsampleConv(channels, name=f"subsample_{i}")(x)
            mask = mask[:, ::2]
        shape = (m // 4, tower.conv_channels[-1], w)
        x = Einsum("ntfc,fcw->ntw", shape, mesh.FILTER, mesh.TOKENS, name="embed")(x)
        layer = ConformerLayer(tower, parent=None)
        params = self.param("layers", stacked_init(layer, tower.num_layers, x, mask))

        def body(x: jax.Array, params: dict) -> Any:
            return layer.apply({"params": params}, x, mask)

        x = scan_layers(jax.checkpoint(body, policy=REMAT_POLICY) if self.remat else body, x, params, self.unroll)
        x = Einsum("ntw,wo->nto", (w, tower.output_dim), mesh.OUT, mesh.TOKENS, name="out_proj")(x)
        bias = self.param("bias", nn.initializers.zeros, (tower.output_dim,), jnp.float32, mesh.VECTOR)
        x = RMSNorm(scale=False)(x + bias.astype(x.dtype).reshape(1, 1, -1))
        x = Einsum("nto,od->ntd", (tower.output_dim, self.d_model), mesh.OUT, mesh.TOKENS, name="project")(x)
        return x.reshape(b, a, t // 4, self.d_model, out_sharding=mesh.PATCHES)


class SubsampleConv(nn.Module):
    """A 3 x 3 convolution of stride 2 over time and bins, norm, relu."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n,t,f,c] -> [n,t/2,f/2,channels]"""
        _, t, f, c = x.shape
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        # The nine shifts stacked: the convolution is then a matrix product.
        windows = jnp.stack([jnp.stack([x[:, i : i + t : 2, j : j + f : 2] for j in range(3)], 3) for i in range(3)], 3)
        shape = (3, 3, c, self.channels)
        x = Einsum("ntfyxc,yxco->ntfo", shape, mesh.KERNEL, mesh.PATCHES, name="convolve")(windows)
        return nn.relu(LayerNorm(bias=False, epsilon=1e-6, name="norm")(x))


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, norm (arXiv 2005.08100)."""

    tower: AudioTower

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """x [n,t,w], mask bool[n,t] -> [n,t,w]"""
        tower = self.tower
        bound = tower.activation_clip
        x = HalfFeedForward(tower, name="ffn_start")(x)
        y = RMSNorm(name="attention_pre")(jnp.clip(x, -bound, bound))
        y = ChunkedAttention(tower, name="attention")(y, mask)
        x = x + RMSNorm(name="attention_post")(jnp.clip(y, -bound, bound))
        x = CausalConvolution(tower, name="convolution")(x)
        x = HalfFeedForward(tower, name="ffn_end")(x)
        return RMSNorm(name="norm")(jnp.clip(x, -bound, bound))


class HalfFeedForward(nn.Module):
    """A silu feed-forward between norms, weighted by `ffn_residual_weight`."""

    tower: AudioTower

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        tower = self.tower
        w = tower.d_model
        bound = tower.activation_clip
        y = RMSNorm(name="pre")(jnp.clip(x, -bound, bound))
        y = Einsum("ntw,wf->ntf", (w, 4 * w), mesh.UP, mesh.HIDDEN, tower.clipped, name="up")(y)
        y = Einsum("ntf,fw->ntw", (4 * w, w), mesh.DOWN, mesh.TOKENS, tower.clipped, name="down")(nn.silu(y))
        return x + tower.ffn_residual_weight * RMSNorm(name="post")(jnp.clip(y, -bound, bound))


class CausalConvolution(nn.Module):
    """A gated linear map, a causal depthwise convolution over time, a linear map."""

    tower: AudioTower

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        tower, w = self.tower, self.tower.d_model
        y = RMSNorm(name="pre")(x)
        y = Einsum("ntw,wgv->ntgv", (w, 2, w), mesh.GATE, mesh.GATED, tower.clipped, name="pw_in")(y)
        y = y[:, :, 0] * nn.sigmoid(y[:, :, 1])
        init = nn.initializers.normal(tower.conv_kernel**-0.5)
        weight = self.param("weight", init, (tower.conv_kernel, w), jnp.float32, mesh.DEPTHWISE).astype(y.dtype)
        t = y.shape[1]
        padded = jnp.pad(y, ((0, 0), (tower.conv_kernel - 1, 0), (0, 0)))
        shifted = [padded[:, i : i + t] * weight[i].reshape(1, 1, w) for i in range(tower.conv_kernel)]
        y = functools.reduce(jnp.add, shifted)
        y = nn.silu(RMSNorm(name="norm")(jnp.clip(y, -tower.activation_clip, tower.activation_clip)))
        return x + Einsum("ntv,vw->ntw", (w, w), mesh.DOWN, mesh.TOKENS, tower.clipped, name="pw_out")(y)


class ChunkedAttention(nn.Module):
    """Local attention with relative positions (arXiv 1901.02860): a block of queries sees the frames around it."""

    tower: AudioTower

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """x [n,t,w], mask bool[n,t] -> [n,t,w]"""
        tower = self.tower
        w = tower.d_model
        h = tower.num_heads
        k = w // h
        t = x.shape[1]
        chunk = tower.chunk_size
        before = tower.left_context - 1
        blocks = -(-t // chunk)
        context = chunk + before + tower.right_context

        def linear(name: str) -> jax.Array:
            shape = (w, h, k)
            y = Einsum("ntw,whk->nthk", shape, mesh.QUERY, mesh.HEADS, tower.clipped, name=name)(x)
            return y.astype(jnp.float32)

        per_dim_scale = self.param("per_dim_scale", nn.initializers.zeros, (k,), jnp.float32, mesh.VECTOR)
        q = linear("query") * (k**-0.5 / math.log(2) * jax.nn.softplus(per_dim_scale)).reshape(1, 1, 1, k)
        q = jnp.pad(q, ((0, 0), (0, blocks * chunk - t), (0, 0), (0, 0)))
        q = mesh.shard(rearrange(q, "n (b c) h k -> n b c h k", c=chunk), P(mesh.BATCH, None, None, "model"))
        # Block b attends to the frames from b * chunk - before to (b + 1) * chunk + right_context.
        frames = np.arange(blocks)[:, None] * chunk + np.arange(context)

        def to_contexts(y: jax.Array) -> jax.Array:
            y = jnp.pad(y, ((0, 0), (before, blocks * chunk - t + tower.right_context), *((0, 0),) * (y.ndim - 2)))
            spec = jax.typeof(y).sharding.spec
            return y.at[:, frames].get(out_sharding=P(mesh.BATCH, None, None, *spec[2:]))

        keys = to_contexts(linear("key") * (math.log(1 + math.e) / math.log(2)))
        values = to_contexts(linear("value"))
        distance = np.arange(chunk)[:, None] - np.arange(context) + before  # of query c from frame x
        window_mask = ((distance >= 0) & (distance < before)) | ((distance < 0) & (-distance < tower.right_context))
        visible = to_contexts(mask)[:, :, None, None] & window_mask[None, None, None]

        scores = jnp.einsum("nbchk,nbxhk->nbhcx", q, keys) + self._relative(q, x.dtype, context)
        scores = tower.logit_cap * jnp.tanh(scores / tower.logit_cap)
        weights = jax.nn.softmax(jnp.where(visible, scores, -1e9), axis=-1)
        y = rearrange(jnp.einsum("nbhcx,nbxhk->nbchk", weights, values), "n b c h k -> n (b c) h k")[:, :t]
        out = Einsum("nthk,hkw->ntw", (h, k, w), mesh.ATTENTION_OUT, mesh.TOKENS, tower.clipped, name="out")
        return out(y.astype(x.dtype))

    def _relative(self, q: jax.Array, dtype: jnp.dtype, context: int) -> jax.Array:
        """q f32[n,b,c,h,k] against sinusoids of the distance to each frame -> scores [n,b,h,c,context]."""
        w = self.tower.d_model
        h, k = q.shape[-2:]
        distance = np.arange(context // 2, -1, -1)
        frequencies = np.exp(np.arange(w // 2) * -(math.log(1e4) / max(w // 2 - 1, 1)))
        angle = (distance[:, None] * frequencies).astype(np.float32)
        table = jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], axis=-1), dtype)
        weight = self.param("relative", nn.initializers.normal(w**-0.5), (w, h, k), jnp.float32, mesh.QUERY)
        keys = jnp.einsum("rw,whk->rhk", table, weight.astype(dtype), out_sharding=P(None, "model", None))
        scores = jnp.einsum("nbchk,rhk->nbhcr", q, keys.astype(jnp.float32))
        # Row c is shifted right by c: padding each row by one and reshaping does it.
        c, r = scores.shape[-2:]
        scores = jnp.pad(scores, ((0, 0),) * 4 + ((0, context + 1 - r),))
        scores = rearrange(scores, "n b h c x -> n b h (c x)")[..., : c * context]
        return rearrange(scores, "n b h (c x) -> n b h c x", c=c)
