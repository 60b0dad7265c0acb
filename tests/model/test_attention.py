"""The programs for different devices and row lengths give the same attention, and the same gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embed.distributed import mesh
from embed.model.attention import AttentionMaskInfo, attention, full_attention, sliding_window, splash_attention


def packed(seed: int, b: int, l: int, h: int, g: int, k: int):
    """Queries, keys, values, and places of rows that hold several segments and padding."""
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


def placed(q, k, v, places):
    heads = [jax.reshard(jnp.asarray(x), mesh.HEADS) for x in (q, k, v)]
    return heads, mesh.to_global(places)


def of_what_is_there(y, places):
    """Padding may hold anything."""
    return y * (places.segments > 0)[..., None, None]


def value_and_grads(how, heads, places, weight):
    def value(q, k, v):
        return jnp.sum(of_what_is_there(how(q, k, v, places), places) * weight)

    y = jax.jit(lambda *x: of_what_is_there(how(*x, places), places))(*heads)
    return [np.asarray(x) for x in (y, *jax.jit(jax.grad(value, (0, 1, 2)))(*heads))]


def check(one, other, heads, places):
    weight = jnp.asarray(np.random.default_rng(0).standard_normal(heads[0].shape), jnp.float32)
    weight = jax.reshard(weight, mesh.HEADS)
    for a, b in zip(*(value_and_grads(how, heads, places, weight) for how in (one, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize(("l", "window", "groups"), [(40, 5, 1), (64, 16, 2), (37, 3, 4), (50, 16, 2)])
def test_a_band_is_the_whole_square_with_a_window(l, window, groups):
    heads, places = placed(*packed(l, 2, l, 4, groups, 8))
    check(
        functools.partial(sliding_window, window=window),
        functools.partial(full_attention, window=window),
        heads,
        places,
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize(("l", "window", "groups", "k"), [(40, 0, 2, 16), (300, 20, 2, 8), (520, 130, 4, 8)])
def test_the_fused_kernel_is_the_formula(shape, l, window, groups, k):
    with jax.set_mesh(mesh.make_mesh(shape)):
        heads, places = placed(*packed(l, 2, l, 4, groups, k))
        one = functools.partial(splash_attention, window=window, interpret=True)
        check(one, functools.partial(full_attention, window=window), heads, places)


def test_a_long_row_with_a_short_window_takes_a_band():
    """The compiled program for it has no array of l x l."""
    l = 1024
    q = jax.ShapeDtypeStruct((1, l, 2, 8), jnp.float32, sharding=jax.P(mesh.BATCH, None, "model", None))
    ids = jax.ShapeDtypeStruct((1, l), jnp.int32, sharding=jax.P(mesh.BATCH, None))
    for window, square in ((16, False), (0, True)):
        program = (
            jax.jit(functools.partial(attention, window=window)).lower(q, q, q, AttentionMaskInfo(ids, ids)).as_text()
        )
        assert (f"{l}x{l}x" in program) == square
