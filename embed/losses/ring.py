"""`negatives.gather_and_score` in constant memory: keys rotate around the devices, logits exist one tile at a time.

Every device keeps its queries and starts with its block of keys. A tile of keys is scored against all queries of the
device and sent to the next device; after as many rounds as there are devices it has met every query and is back home.
The backward pass rotates the keys once more, with the logsumexps of the forward pass: it recomputes each tile's logits,
and the keys' gradients rotate along with the keys. All widths share their products (`prefixes.prefix_logits`).
After Inf-CL (arXiv 2410.17243) and ring attention (arXiv 2310.01889).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import P

from embed.distributed import mesh
from embed.losses.masking import MASKED_LOGIT
from embed.losses.negatives import KeyBatch, NegativeStats, QueryBatch, negative_masks, score_negatives
from embed.losses.prefixes import prefix_logits

RowStats = tuple[jax.Array, jax.Array, jax.Array]  # row_lse, num_negatives, max_logit of NegativeStats
ColStats = tuple[jax.Array, jax.Array]  # col_lse, col_count
Grads = tuple[jax.Array, jax.Array]  # of vector and inv_norm_scale


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def ring_score(
    queries: QueryBatch, keys: KeyBatch, widths: Sequence[int], symmetric: bool, tile: int = 512
) -> NegativeStats:
    """Score every query of the batch against every key, with at most w x `tile` x `tile` logits per device at once.

    Queries and keys are sharded over all devices, those along `model` too where their number divides. `max_logit` and
    the counts have no gradient.
    """
    return _forward(queries, keys, widths, symmetric, tile)[0]


def _forward(
    queries: QueryBatch, keys: KeyBatch, widths: Sequence[int], symmetric: bool, tile: int
) -> tuple[NegativeStats, Any]:
    axes = _row_axes(queries)

    def score_shard(queries: QueryBatch, keys: KeyBatch) -> NegativeStats:
        queries, keys = _split_tiles((queries, keys), tile)

        def score_tile(
            rotating: tuple[KeyBatch, ColStats], row_stats: RowStats
        ) -> tuple[tuple[KeyBatch, ColStats], RowStats]:
            key, col_stats = rotating

            def add_queries(col_stats: ColStats, stationary: tuple[QueryBatch, RowStats]) -> tuple[ColStats, RowStats]:
                query, (row_lse, num_negatives, max_logit) = stationary
                col_lse, col_count = col_stats
                stats = score_negatives(query, key, widths, symmetric)
                row_lse = jnp.logaddexp(row_lse, stats.row_lse)
                num_negatives = num_negatives + stats.num_negatives
                max_logit = jnp.maximum(max_logit, stats.max_logit)
                col_lse = jnp.logaddexp(col_lse, stats.col_lse)
                return (col_lse, col_count + stats.col_count), (row_lse, num_negatives, max_logit)

            col_stats, row_stats = jax.lax.scan(add_queries, col_stats, (queries, row_stats))
            return (key, col_stats), row_stats

        init_row_lse = _full_like(queries.inv_norm_scale, MASKED_LOGIT, axes)
        init_col_lse = _full_like(keys.inv_norm_scale, MASKED_LOGIT, axes)
        init_row_count = _full_like(queries.inv_norm_scale, 0, axes)
        init_col_count = _full_like(keys.inv_norm_scale, 0, axes)
        row_stats = (init_row_lse, init_row_count, init_row_lse[..., 0])
        (_, col_stats), row_stats = ring_scan(score_tile, (keys, (init_col_lse, init_col_count)), row_stats, axes)
        return NegativeStats(*_merge_tiles((*row_stats, *col_stats)))

    stats = _map_shards(score_shard, axes, queries, keys)
    return stats, (queries, keys, stats.row_lse, stats.col_lse)


def _backward(
    widths: Sequence[int], symmetric: bool, tile: int, residuals: Any, grad: NegativeStats
) -> tuple[QueryBatch, KeyBatch]:
    queries, keys, row_lse, col_lse = residuals
    axes = _row_axes(queries)

    def differentiate_shard(queries: Any, keys: Any) -> tuple[Grads, Grads]:
        """Take (QueryBatch or KeyBatch, its logsumexp f32[n,w], the loss's gradient by the logsumexp) of both sides."""
        queries, keys = _split_tiles((queries, keys), tile)

        def differentiate_tile(rotating: tuple[Any, Grads], query_grads: Grads) -> tuple[tuple[Any, Grads], Grads]:
            key_tile, key_grads = rotating
            key, col_lse, col_lse_grad = key_tile

            def add_queries(i: jax.Array, grads: tuple[Grads, Grads]) -> tuple[Grads, Grads]:
                query, row_lse, row_lse_grad = _take_tile(queries, i)
                score = functools.partial(prefix_logits, widths=widths)
                logits, pullback = jax.vjp(score, query.vector, query.inv_norm_scale, key.vector, key.inv_norm_scale)
                query_to_key, key_to_query = negative_masks(query, key, logits)
                row_softmax = jnp.exp(logits - rearrange(row_lse, "q w -> w q 1"))
                logits_grad = jnp.where(query_to_key, row_softmax * rearrange(row_lse_grad, "q w -> w q 1"), 0)
                if symmetric:
                    col_softmax = jnp.exp(logits - rearrange(col_lse, "n w -> w 1 n"))
                    logits_grad += jnp.where(key_to_query, col_softmax * rearrange(col_lse_grad, "n w -> w 1 n"), 0)
                tile_grads = pullback(logits_grad)
                query_grads = jax.tree.map(lambda x, part: x.at[i].add(part), grads[0], tile_grads[:2])
                return query_grads, jax.tree.map(jnp.add, grads[1], tile_grads[2:])

            num_tiles = len(queries[0].pair_index)
            query_grads, key_grads = jax.lax.fori_loop(0, num_tiles, add_queries, (query_grads, key_grads))
            return (key_tile, key_grads), query_grads

        init_query_grads = _zero_grads(queries[0], axes)
        init_key_grads = _zero_grads(keys[0], axes)
        (_, key_grads), query_grads = ring_scan(differentiate_tile, (keys, init_key_grads), init_query_grads, axes)
        return _merge_tiles((query_grads, key_grads))

    query_grads, key_grads = _map_shards(
        differentiate_shard, axes, (queries, row_lse, grad.row_lse), (keys, col_lse, grad.col_lse)
    )
    return _as_cotangent(queries, query_grads), _as_cotangent(keys, key_grads)


ring_score.defvjp(_forward, _backward)


def _as_cotangent(batch: Any, grads: Grads) -> Any:
    """Put gradients into a QueryBatch or KeyBatch whose other fields have none."""
    vector, inv_norm_scale = grads
    no_gradient = jax.tree.map(lambda _: None, batch)
    return dataclasses.replace(no_gradient, vector=vector.astype(batch.vector.dtype), inv_norm_scale=inv_norm_scale)


def _row_axes(queries: QueryBatch) -> tuple[str, ...]:
    """Choose the mesh axes that rows are sharded over: all where they divide the rows, else the batch axes."""
    return mesh.AXES if len(queries.pair_index) % jax.sharding.get_abstract_mesh().size == 0 else mesh.BATCH


def _map_shards(fn: Callable, axes: tuple[str, ...], *batches: Any) -> Any:
    """Call `fn` on each device's rows of `batches`; the result is sharded as the batch is."""
    sharded = jax.tree.map(lambda leaf: jax.reshard(leaf, P(axes)), batches)
    result = jax.shard_map(fn, in_specs=P(axes), out_specs=P(axes))(*sharded)
    return jax.tree.map(lambda leaf: jax.reshard(leaf, mesh.ROWS), result)


def ring_scan(score_tile: Callable, rotating: Any, stationary: Any, axes: tuple[str, ...]) -> tuple[Any, Any]:
    """Return (rotating, stationary) after every tile of every device's `rotating` has met every device's `stationary`.

    `score_tile(tile, stationary)` returns both, updated. Each tile is sent on by itself, into the place of the one that
    arrives: there is no second buffer of all rotating tiles.
    """
    num_devices, num_tiles = jax.lax.axis_size(axes), len(jax.tree.leaves(rotating)[0])
    permutation = [(i, (i + 1) % num_devices) for i in range(num_devices)]

    def step(i: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        rotating, stationary = carry
        j = i % num_tiles
        tile, stationary = score_tile(_take_tile(rotating, j), stationary)
        tile = jax.lax.ppermute(tile, axes, permutation)
        return jax.tree.map(lambda x, part: x.at[j].set(part), rotating, tile), stationary

    return jax.lax.fori_loop(0, num_devices * num_tiles, step, (rotating, stationary))


def _full_like(x: jax.Array, value: float, axes: tuple[str, ...]) -> jax.Array:
    """Make an f32 array of x's shape that may come to differ between devices."""
    return jax.lax.pcast(jnp.full(x.shape, value, jnp.float32), axes, to="varying")


def _zero_grads(batch: KeyBatch, axes: tuple[str, ...]) -> Grads:
    return _full_like(batch.vector, 0, axes), _full_like(batch.inv_norm_scale, 0, axes)


def _split_tiles(batches: Any, tile: int) -> Any:
    """Split every leaf [n,...] -> [tiles,rows,...]; `rows` is the largest divisor of n up to `tile`."""

    def split(leaf: jax.Array) -> jax.Array:
        n = len(leaf)
        num_tiles = next(count for count in range(math.ceil(n / tile), n + 1) if n % count == 0)
        return rearrange(leaf, "(t n) ... -> t n ...", t=num_tiles)

    return jax.tree.map(split, batches)


def _merge_tiles(tiles: Any) -> Any:
    return jax.tree.map(lambda leaf: rearrange(leaf, "t n ... -> (t n) ..."), tiles)


def _take_tile(tiles: Any, i: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tiles)
