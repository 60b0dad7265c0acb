"""The programs for different devices and row lengths give the same attention, and the same gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embed.distributed import mesh
from embed.model.attention import (
    AttentionMaskInfo,
    Reach,
    attention,
    bidirectional,
    causal,
    full_attention,
    sliding_window,
    splash_attention,
)


def packed(seed: int, b: int, l: int, h: int, g: int, k: int):
    """Queries, keys, values, and info of rows that hold several segments and padding."""
    rng = np.random.default_rng(seed)
    q, keys, v = (rng.standard_normal((b, l, n, k)).astype(np.float32) * 0.5 for n in (h, g, g))
    segments, positions = np.zeros((b, l), np.int32), np.zeros((b, l), np.int32)
    for row in range(b):
        start = 0
        for number, length in enumerate(rng.integers(1, l // 2, 4), start=1):
            stop = min(start + length, l - 3)
            segments[row, start:stop], positions[row, start:stop] = number, np.arange(stop - start)
            start = stop
    return q, keys, v, AttentionMaskInfo(segments, positions)


def placed(q, k, v, info):
    heads = [jax.reshard(jnp.asarray(x), mesh.HEADS) for x in (q, k, v)]
    return heads, mesh.to_global(info)


def of_what_is_there(y, info):
    """Padding may hold anything."""
    return y * (info.segments > 0)[..., None, None]


def value_and_grads(how, heads, info, weight):
    def value(q, k, v):
        return jnp.sum(of_what_is_there(how(q, k, v, info), info) * weight)

    y = jax.jit(lambda *x: of_what_is_there(how(*x, info), info))(*heads)
    return [np.asarray(x) for x in (y, *jax.jit(jax.grad(value, (0, 1, 2)))(*heads))]


def check(one, other, heads, info):
    weight = jnp.asarray(np.random.default_rng(0).standard_normal(heads[0].shape), jnp.float32)
    weight = jax.reshard(weight, mesh.HEADS)
    for a, b in zip(*(value_and_grads(how, heads, info, weight) for how in (one, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


DIRECTIONS = [bidirectional, causal]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("l", "window", "groups"), [(40, 5, 1), (64, 16, 2), (37, 3, 4), (50, 16, 2)])
def test_a_band_is_the_full_square_with_a_window(l, window, groups, direction):
    heads, info = placed(*packed(l, 2, l, 4, groups, 8))
    reach = direction(window)
    check(functools.partial(sliding_window, reach=reach), functools.partial(full_attention, reach=reach), heads, info)


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_full_attention_is_a_loop_over_tokens(direction, window):
    q, k, v, info = packed(7, 1, 24, 2, 1, 4)
    y = jax.jit(functools.partial(full_attention, reach=direction(window)))(
        *placed(q, k, v, info)[0], mesh.to_global(info)
    )
    for i in range(24):
        for h in range(2):
            behind = 0 if direction is causal else 24
            js = [
                j
                for j in range(24)
                if info.segments[0, j] == info.segments[0, i]
                and j - i <= behind
                and (not window or abs(i - j) <= window)
            ]
            if info.segments[0, i]:
                scores = np.array([q[0, i, h] @ k[0, j, 0] for j in js], np.float64)
                weights = np.exp(scores - scores.max())
                expected = weights / weights.sum() @ np.array([v[0, j, 0] for j in js])
                np.testing.assert_allclose(y[0, i, h], expected, atol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize(("l", "window", "groups", "k"), [(40, 0, 2, 16), (300, 20, 2, 8), (520, 130, 4, 8)])
def test_the_fused_kernel_is_the_formula(shape, l, window, groups, k, direction):
    with jax.set_mesh(mesh.make_mesh(shape)):
        heads, info = placed(*packed(l, 2, l, 4, groups, k))
        kernel = functools.partial(splash_attention, reach=direction(window), interpret=True)
        check(kernel, functools.partial(full_attention, reach=direction(window)), heads, info)


def test_a_long_row_with_a_short_window_takes_a_band():
    """The compiled program for it has no array of l x l."""
    l = 1024
    q = jax.ShapeDtypeStruct((1, l, 2, 8), jnp.float32, sharding=jax.P(mesh.BATCH, None, "model", None))
    ids = jax.ShapeDtypeStruct((1, l), jnp.int32, sharding=jax.P(mesh.BATCH, None))
    for reach, square in ((bidirectional(16), False), (causal(16), False), (Reach(None, None), True)):
        lowered = jax.jit(functools.partial(attention, reach=reach)).lower(q, q, q, AttentionMaskInfo(ids, ids))
        assert (f"{l}x{l}x" in lowered.as_text()) == square
