"""Attention over packed rows: one meaning, and for each kind of device the program that computes it.

A token attends to the tokens of its segment within reach, which `Architecture.attention` names: `bidirectional` or
`causal`, each with a window or without. Tokens of a segment are adjacent in the row and their positions count up by
one, so a window may be applied by index in the row.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import P
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from embed.distributed import mesh

TILE = 512  # tokens of a tile of the TPU kernel
LANES = 128  # tiles are multiples of this
RESIDUALS = "attention"  # checkpoint name of what the TPU kernel's backward pass needs of the forward pass
MASK_VALUE = -0.7 * float(jnp.finfo(jnp.float32).max)  # a masked score; finite, so that a row of only masked ones is


class AttentionMaskInfo(NamedTuple):
    """Where the tokens of a row are."""

    segments: jax.Array  # i32[b,l], 0 = padding
    positions: jax.Array  # i32[b,l]


class Reach(NamedTuple):
    """How many tokens before and after itself a token attends to; None = all of its segment."""

    before: int | None
    after: int | None


def bidirectional(window: int) -> Reach:
    """Both sides, at most `window` tokens each; 0 = the whole segment."""
    return Reach(window or None, window or None)


def causal(window: int) -> Reach:
    """Itself and at most `window` tokens before it; 0 = all before it."""
    return Reach(window or None, 0)


DIRECTIONS: dict[str, Callable[[int], Reach]] = {"bidirectional": bidirectional, "causal": causal}


def find_reach(direction: str, window: int) -> Reach:
    """The reach that `Architecture.attention` names. Raises ValueError, with the choices."""
    if direction not in DIRECTIONS:
        raise ValueError(f"attention {direction!r}: choose one of {', '.join(DIRECTIONS)}")
    return DIRECTIONS[direction](window)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, info: AttentionMaskInfo, reach: Reach) -> jax.Array:
    """q[b,l,h,k] against k, v[b,l,g,k] with g dividing h -> [b,l,h,k]; scores are not scaled.

    Query and key/value heads are sharded over `model` alike. On a TPU, a fused kernel that skips masked tiles;
    elsewhere XLA, over a band of the scores where the row is long for the window.
    """
    if jax.sharding.get_abstract_mesh().abstract_device.platform == "tpu":
        return splash_attention(q, k, v, info, reach)
    if reach.before is not None and 3 * reach.before < q.shape[1]:
        return sliding_window(q, k, v, info, reach)
    return full_attention(q, k, v, info, reach)


def full_attention(q: jax.Array, k: jax.Array, v: jax.Array, info: AttentionMaskInfo, reach: Reach) -> jax.Array:
    """Scores of every token against every other, and a mask."""
    return _masked_attention(q, k, v, info, info, reach)


def sliding_window(q: jax.Array, k: jax.Array, v: jax.Array, info: AttentionMaskInfo, reach: Reach) -> jax.Array:
    """Blocks of `reach.before` tokens, each against itself and its neighbors: at most 3 · l · window scores, not l².

    Needs a window, with `reach.after` equal to `reach.before` or 0.
    """
    l, window = q.shape[1], reach.before
    assert window and reach.after in (0, window)
    blocks = -(-l // window)
    right = 1 if reach.after else 0

    def to_blocks(x: jax.Array, left: int, right: int, fill: int = 0) -> jax.Array:
        """[b,l,...] -> [b·blocks, (left + 1 + right) · window, ...]"""
        padding = (left * window, blocks * window - l + right * window)
        x = jnp.pad(x, ((0, 0), padding, *((0, 0),) * (x.ndim - 2)), constant_values=fill)
        shifted = [x[:, i * window : (i + blocks) * window] for i in range(left + 1 + right)]
        shifted = [rearrange(part, "b (n w) ... -> b n w ...", w=window) for part in shifted]
        return rearrange(jnp.concatenate(shifted, axis=2), "b n w ... -> (b n) w ...")

    def info_blocks(left: int, right: int) -> AttentionMaskInfo:
        segments = to_blocks(info.segments, left, right, fill=-1)
        return AttentionMaskInfo(segments, to_blocks(info.positions, left, right))

    k_blocks, v_blocks = to_blocks(k, 1, right), to_blocks(v, 1, right)
    y = _masked_attention(to_blocks(q, 0, 0), k_blocks, v_blocks, info_blocks(0, 0), info_blocks(1, right), reach)
    return mesh.shard(rearrange(y, "(b n) w h k -> b (n w) h k", n=blocks)[:, :l], mesh.HEADS)


def _masked_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, q_info: AttentionMaskInfo, k_info: AttentionMaskInfo, reach: Reach
) -> jax.Array:
    """q[b,l,h,k], k, v[b,m,g,k] -> [b,l,h,k]; scores and their softmax in float32."""
    q, k, v = (mesh.shard(x, mesh.HEADS) for x in (q, k, v))
    q_info = AttentionMaskInfo(*(mesh.shard(x, mesh.ROWS) for x in q_info))
    k_info = AttentionMaskInfo(*(mesh.shard(x, mesh.ROWS) for x in k_info))

    def as_queries(x: jax.Array) -> jax.Array:
        return rearrange(x, "b l -> b 1 1 l 1")

    def as_keys(x: jax.Array) -> jax.Array:
        return rearrange(x, "b m -> b 1 1 1 m")

    mask = as_queries(q_info.segments) == as_keys(k_info.segments)
    offset = as_queries(q_info.positions) - as_keys(k_info.positions)  # > 0 where the key is before the query
    if reach.before is not None:
        mask &= offset <= reach.before
    if reach.after is not None:
        mask &= offset >= -reach.after
    b, l, h, size = q.shape
    g = k.shape[2]
    q = q.reshape(b, l, g, h // g, size, out_sharding=P(mesh.BATCH, None, "model", None, None))
    scores = jnp.einsum("blgrk,bmgk->bgrlm", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask, scores, MASK_VALUE), axis=-1).astype(v.dtype)
    return jnp.einsum("bgrlm,bmgk->blgrk", weights, v).reshape(b, l, h, size, out_sharding=mesh.HEADS)


def splash_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, info: AttentionMaskInfo, reach: Reach, interpret: bool = False
) -> jax.Array:
    """JAX's splash attention: a tile of scores at a time, forward and backward; tiles out of reach are skipped.

    `interpret` runs the kernel's program on any device, slowly.
    """
    local = functools.partial(_on_one_device, reach=reach, interpret=interpret)
    # The kernel does not declare how its outputs vary over the mesh, so that cannot be checked.
    sharded = jax.shard_map(local, in_specs=(mesh.HEADS,) * 3 + (P(mesh.BATCH),), out_specs=mesh.HEADS, check_vma=False)
    return sharded(q, k, v, info.segments)


def _on_one_device(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, *, reach: Reach, interpret: bool
) -> jax.Array:
    l, heads = q.shape[1:3]
    padded = -(-l // LANES) * LANES
    tile = next(tile for tile in range(min(TILE, padded), 0, -LANES) if padded % tile == 0)

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, padded - l), *((0, 0),) * (x.ndim - 2)))

    shape = (padded, padded)
    mask = splash.FullMask(shape) if reach == (None, None) else splash.LocalMask(shape, (reach.before, reach.after), 0)
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
