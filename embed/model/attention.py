"""Bidirectional attention over packed rows: one meaning, and for each kind of device the program that computes it.

A token sees those of its segment, with a window those at most that far from it. Tokens of a segment lie side by side
and their positions count up by one, so a window may be cut by place in the row.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import P
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from embed.distributed import mesh

TILE = 512  # of the TPU kernel, in tokens
LANES = 128  # what its tiles must be a multiple of
RESIDUALS = "attention"  # the name of what the TPU kernel's backward pass needs of the forward one
MASK_VALUE = -0.7 * float(jnp.finfo(jnp.float32).max)  # a score of what is not seen, finite where nothing is


class AttentionMaskInfo(NamedTuple):
    """Where the tokens of a row are."""

    segments: jax.Array  # i32[b,l], 0 = padding
    positions: jax.Array  # i32[b,l]


def attention(q: jax.Array, k: jax.Array, v: jax.Array, places: AttentionMaskInfo, window: int) -> jax.Array:
    """q[b,l,h,k] against k, v[b,l,g,k] with g dividing h -> [b,l,h,k]; scores are not rescaled, window 0 is none.

    Heads and groups lie along `model` alike. On a TPU a fused kernel that leaves out what no token sees; elsewhere
    XLA, over a band where the row is long for the window.
    """
    if jax.sharding.get_abstract_mesh().abstract_device.platform == "tpu":
        return splash_attention(q, k, v, places, window)
    return (
        sliding_window(q, k, v, places, window)
        if 0 < 3 * window < q.shape[1]
        else full_attention(q, k, v, places, window)
    )


def full_attention(q: jax.Array, k: jax.Array, v: jax.Array, places: AttentionMaskInfo, window: int) -> jax.Array:
    """Every token against every other, and a mask."""
    return _weighted(q, k, v, places, places, window)


def sliding_window(q: jax.Array, k: jax.Array, v: jax.Array, places: AttentionMaskInfo, window: int) -> jax.Array:
    """Blocks of `window` tokens, each against itself and its two neighbours: l · 3 · window scores instead of l²."""
    l = q.shape[1]
    blocks = -(-l // window)

    def cut(x: jax.Array, around: int, fill: int = 0) -> jax.Array:
        """[b,l,...] -> [b·blocks, (1 + 2 · around) · window, ...]"""
        sides = (around * window, blocks * window - l + around * window)
        x = jnp.pad(x, ((0, 0), sides, *((0, 0),) * (x.ndim - 2)), constant_values=fill)
        near = [x[:, i * window : (i + blocks) * window] for i in range(1 + 2 * around)]
        near = [rearrange(part, "b (n w) ... -> b n w ...", w=window) for part in near]
        return rearrange(jnp.concatenate(near, axis=2), "b n w ... -> (b n) w ...")

    here, there = (AttentionMaskInfo(cut(places.segments, n, fill=-1), cut(places.positions, n)) for n in (0, 1))
    y = _weighted(cut(q, 0), cut(k, 1), cut(v, 1), here, there, window)
    return mesh.shard(rearrange(y, "(b n) w h k -> b (n w) h k", n=blocks)[:, :l], mesh.HEADS)


def _weighted(
    q: jax.Array, k: jax.Array, v: jax.Array, here: AttentionMaskInfo, there: AttentionMaskInfo, window: int
) -> jax.Array:
    """q[b,l,h,k], k, v[b,m,g,k] -> [b,l,h,k]; scores and their softmax in float32."""
    q, k, v = (mesh.shard(x, mesh.HEADS) for x in (q, k, v))
    here, there = (AttentionMaskInfo(*(mesh.shard(x, mesh.ROWS) for x in places)) for places in (here, there))
    down, across = (lambda x: rearrange(x, "b l -> b 1 1 l 1")), (lambda x: rearrange(x, "b m -> b 1 1 1 m"))
    mask = down(here.segments) == across(there.segments)
    if window:
        mask &= jnp.abs(down(here.positions) - across(there.positions)) <= window
    b, l, h, size = q.shape
    g = k.shape[2]
    q = q.reshape(b, l, g, h // g, size, out_sharding=P(mesh.BATCH, None, "model", None, None))
    scores = jnp.einsum("blgrk,bmgk->bgrlm", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask, scores, MASK_VALUE), axis=-1).astype(v.dtype)
    return jnp.einsum("bgrlm,bmgk->blgrk", weights, v).reshape(b, l, h, size, out_sharding=mesh.HEADS)


def splash_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, places: AttentionMaskInfo, window: int, interpret: bool = False
) -> jax.Array:
    """JAX's splash attention: scores live in a tile at a time, forward and backward; tiles outside a window are left
    out. `interpret` runs the kernel's program on any device, slowly."""
    local = functools.partial(_on_one_device, window=window, interpret=interpret)
    # The kernel does not say how its outputs vary over the mesh, so that cannot be checked.
    spread = jax.shard_map(local, in_specs=(mesh.HEADS,) * 3 + (P(mesh.BATCH),), out_specs=mesh.HEADS, check_vma=False)
    return spread(q, k, v, places.segments)


def _on_one_device(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, *, window: int, interpret: bool
) -> jax.Array:
    l, heads = q.shape[1:3]
    padded = -(-l // LANES) * LANES
    tile = next(tile for tile in range(min(TILE, padded), 0, -LANES) if padded % tile == 0)

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, padded - l), *((0, 0),) * (x.ndim - 2)))

    shape = (padded, padded)
    mask = splash.LocalMask(shape, (window, window), 0) if window else splash.FullMask(shape)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash.BlockSizes(
            block_q=tile,
            block_kv=tile,
            block_q_dkv=tile,
            block_kv_dkv=tile,
            use_fused_bwd_kernel=True,
        ),
        residual_checkpoint_name=RESIDUALS,
        interpret=interpret,
    )

    def one_row(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
        q, k, v = (rearrange(x, "l h k -> h l k") for x in (q, k, v))
        return rearrange(kernel(q, k, v, splash.SegmentIds(segments, segments)), "h l k -> l h k")

    return jax.vmap(one_row)(*(pad(x) for x in (q, k, v, segments)))[:, :l]
