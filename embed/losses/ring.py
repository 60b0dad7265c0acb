"""`contrast.dense` in constant memory: keys travel round the devices, and logits exist a tile at a time.

Every device holds its queries and one block of keys. A tile of keys meets all queries that are there and goes on to the
next device; after as many rounds as there are devices it has met all there are and is home again. The backward pass
makes the same journey with the logsumexps of the first: it recomputes each tile's logits, and the keys' gradients
travel along with the keys. Widths share their products (see `contrast.logits`). After Inf-CL (arXiv 2410.17243) and
ring attention (arXiv 2310.01889).
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
from embed.losses.contrastive import (
    MASKED_LOGIT,
    KeyBatch,
    NegativeStats,
    QueryBatch,
    logits,
    negative_masks,
    score_negatives,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def ring_score(
    queries: QueryBatch, keys: KeyBatch, widths: Sequence[int], columns: bool, tile: int = 512
) -> NegativeStats:
    """`contrast.dense`, with at most `tile` x `tile` logits a width at a time on each device.

    Queries and keys are cut over all devices, those along `model` too where their number allows. There is no gradient
    through `best` and the counts.
    """
    return _forward(queries, keys, widths, columns, tile)[0]


def _forward(
    queries: QueryBatch, keys: KeyBatch, widths: Sequence[int], columns: bool, tile: int
) -> tuple[NegativeStats, Any]:
    axes = _axes(queries)

    def local(queries: QueryBatch, keys: KeyBatch) -> NegativeStats:
        queries, keys = _tiles((queries, keys), tile)

        def meet(traveller: tuple[KeyBatch, Any], found: Any) -> tuple[tuple[KeyBatch, Any], Any]:
            key, back = traveller

            def one(back: Any, here: tuple[QueryBatch, Any]) -> tuple[Any, Any]:
                query, (total, count, best) = here
                more = score_negatives(query, key, widths, columns)
                found = jnp.logaddexp(total, more.total), count + more.count, jnp.maximum(best, more.best)
                return (jnp.logaddexp(back[0], more.back), back[1] + more.back_count), found

            back, found = jax.lax.scan(one, back, (queries, found))
            return (key, back), found

        nobody, none = ([_filled(side.factor, x, axes) for side in (queries, keys)] for x in (MASKED_LOGIT, 0))
        found = nobody[0], none[0], nobody[0][..., 0]
        (_, back), found = ring_scan(meet, (keys, (nobody[1], none[1])), found, axes)
        return NegativeStats(*_rows((*found, *back)))

    found = _on_every_device(local, axes, queries, keys)
    return found, (queries, keys, found.total, found.back)


def _backward(
    widths: Sequence[int], columns: bool, tile: int, kept: Any, by: NegativeStats
) -> tuple[KeyBatch, KeyBatch]:
    queries, keys, total, back = kept
    axes = _axes(queries)

    def local(queries: Any, keys: Any) -> tuple[Any, Any]:
        """Of queries and of keys: the side, its logsumexps f32[n,w], and the loss's gradients by them f32[n,w]."""
        queries, keys = _tiles((queries, keys), tile)

        def meet(traveller: tuple[Any, Any], by_queries: Any) -> tuple[tuple[Any, Any], Any]:
            there, by_key = traveller
            key, back, by_back = there

            def one(i: jax.Array, grads: tuple[Any, Any]) -> tuple[Any, Any]:
                query, total, by_total = _at(queries, i)
                score = functools.partial(logits, widths=widths)
                scores, pull = jax.vjp(score, query.vector, query.factor, key.vector, key.factor)
                forth, reverse = negative_masks(query, key, scores)
                row, column = (lambda x: rearrange(x, "q w -> w q 1")), (lambda x: rearrange(x, "n w -> w 1 n"))
                by_score = jnp.where(forth, jnp.exp(scores - row(total)) * row(by_total), 0)
                if columns:
                    by_score += jnp.where(reverse, jnp.exp(scores - column(back)) * column(by_back), 0)
                parts = pull(by_score)
                by_queries = jax.tree.map(lambda x, part: x.at[i].add(part), grads[0], parts[:2])
                return by_queries, jax.tree.map(jnp.add, grads[1], parts[2:])

            by_queries, by_key = jax.lax.fori_loop(0, len(queries[0].pair), one, (by_queries, by_key))
            return (there, by_key), by_queries

        none = [tuple(_filled(x, 0, axes) for x in (side.vector, side.factor)) for side in (queries[0], keys[0])]
        (_, by_keys), by_queries = ring_scan(meet, (keys, none[1]), none[0], axes)
        return _rows((by_queries, by_keys))

    grads = _on_every_device(local, axes, (queries, total, by.total), (keys, back, by.back))
    return tuple(
        dataclasses.replace(jax.tree.map(lambda _: None, side), vector=vector.astype(side.vector.dtype), factor=factor)
        for side, (vector, factor) in zip((queries, keys), grads, strict=True)
    )


ring_score.defvjp(_forward, _backward)


def _axes(queries: KeyBatch) -> tuple[str, ...]:
    """The mesh's axes that rows are cut along: all where they divide, else those of the batch."""
    return mesh.AXES if len(queries.pair) % jax.sharding.get_abstract_mesh().size == 0 else mesh.BATCH


def _on_every_device(local: Callable, axes: tuple[str, ...], *sides: Any) -> Any:
    """`local` on each device's rows of `sides`; the result lies as the batch does."""
    cut = jax.tree.map(lambda leaf: jax.reshard(leaf, P(axes)), sides)
    found = jax.shard_map(local, in_specs=P(axes), out_specs=P(axes))(*cut)
    return jax.tree.map(lambda leaf: jax.reshard(leaf, mesh.ROWS), found)


def ring_scan(meet: Callable, travellers: Any, residents: Any, axes: tuple[str, ...]) -> tuple[Any, Any]:
    """(travellers, residents) after every tile of travellers has met the residents of every device.

    `meet(tile, residents)` gives both back. A tile goes on alone, into the place of the one that comes: no second
    buffer of all travellers.
    """
    devices, count = jax.lax.axis_size(axes), len(jax.tree.leaves(travellers)[0])
    onwards = [(i, (i + 1) % devices) for i in range(devices)]

    def one(number: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        travellers, residents = carry
        j = number % count
        tile, residents = meet(_at(travellers, j), residents)
        tile = jax.lax.ppermute(tile, axes, onwards)
        return jax.tree.map(lambda x, part: x.at[j].set(part), travellers, tile), residents

    return jax.lax.fori_loop(0, devices * count, one, (travellers, residents))


def _filled(like: jax.Array, value: float, axes: tuple[str, ...]) -> jax.Array:
    """f32 of the shape of `like`, of which every device may make another thing."""
    return jax.lax.pcast(jnp.full(like.shape, value, jnp.float32), axes, to="varying")


def _tiles(sides: Any, tile: int) -> Any:
    """Every leaf [n,...] -> [tiles,rows of one,...]; a tile is the largest divisor of n that is not above `tile`."""

    def cut(leaf: jax.Array) -> jax.Array:
        n = len(leaf)
        count = next(count for count in range(math.ceil(n / tile), n + 1) if n % count == 0)
        return rearrange(leaf, "(t n) ... -> t n ...", t=count)

    return jax.tree.map(cut, sides)


def _rows(tiles: Any) -> Any:
    return jax.tree.map(lambda leaf: rearrange(leaf, "t n ... -> (t n) ..."), tiles)


def _at(tiles: Any, i: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tiles)
