"""Properties of every pooling and both attention directions: padding, packing, meshes, order."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH
from test_encoder import pieces, rows

from embed.data.budget import Budget
from embed.data.collate import make_packed_rows
from embed.data.pieces import TextPiece
from embed.distributed import mesh
from embed.model.build import build
from embed.model.encoder import init_params
from embed.model.pooling import find_pooling

POOLINGS = ("mean", "first", "last", "max")
DIRECTIONS = ("bidirectional", "causal")
SMALL = dataclasses.replace(ARCH, layer_groups=1)  # little to compile
CASES = [("mean", "causal"), ("first", "bidirectional"), ("last", "causal"), ("max", "causal")]


def encoder_of(pooling, attention):
    return build(dataclasses.replace(SMALL, pooling=pooling, attention=attention))


@functools.cache
def params_of(pooling, attention):
    return jax.tree.map(np.asarray, init_params(encoder_of(pooling, attention), jax.random.key(0)))


def embed(pooling, attention, inputs):
    apply = jax.jit(encoder_of(pooling, attention).apply)
    return np.asarray(apply({"params": params_of(pooling, attention)}, mesh.to_global(inputs)))


def expected_pool(pooling, tokens):
    return {"mean": lambda x: x.mean(0), "first": lambda x: x[0], "last": lambda x: x[-1], "max": lambda x: x.max(0)}[
        pooling
    ](tokens)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_pooling_is_a_loop_over_segments(pooling, shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 9, 5)).astype(np.float32) - 2  # negative: padding must not win the maximum
    segments = np.array([[1, 1, 2, 2, 2, 3, 0, 0, 0], [1] * 9, [0] * 9, [2, 2, 2, 2, 0, 0, 0, 0, 0]], np.int32)
    expected = np.zeros((4, 3, 5), np.float32)
    for row in range(4):
        for segment in range(3):
            tokens = x[row, segments[row] == segment + 1]
            if len(tokens):
                expected[row, segment] = expected_pool(pooling, tokens)
    with jax.set_mesh(mesh.make_mesh(shape)):
        pool = jax.jit(find_pooling(pooling), static_argnums=2)
        pooled = np.asarray(pool(*mesh.to_global((x, segments)), 3))
        np.testing.assert_allclose(pooled, expected, rtol=1e-6, atol=1e-6)
        grad = jax.jit(jax.grad(lambda x, s: jnp.sum(jnp.sin(find_pooling(pooling)(x, s, 3)))))
        gradient = np.asarray(grad(*mesh.to_global((x, segments))))
    assert np.isfinite(gradient).all() and not gradient[2].any() and gradient[0, :6].any()


@pytest.mark.parametrize(("pooling", "attention"), CASES)
def test_padding_and_packing_change_nothing(preprocessor, pooling, attention):
    rng = np.random.default_rng(1)
    pair = [pieces(preprocessor, rng, "wpw"), pieces(preprocessor, rng, "sw")]
    alone = embed(pooling, attention, rows(preprocessor, pair))[:, 0]
    padded = embed(pooling, attention, rows(preprocessor, pair, Budget(61, 3, 7, 2, 9)))[:, 0]
    packed = embed(pooling, attention, make_packed_rows([pair], Budget(48, 2, 4, 1, 4), preprocessor, max_segments=3))[
        0
    ]
    np.testing.assert_allclose(padded, alone, atol=2e-5)
    np.testing.assert_allclose(packed[:2], alone, atol=2e-5)
    assert np.abs(alone).max() > 1e-3 and not packed[2].any()


@pytest.mark.parametrize(("pooling", "attention"), [("first", "bidirectional"), ("last", "causal"), ("max", "causal")])
def test_the_mesh_changes_nothing(preprocessor, pooling, attention):
    inputs = rows(preprocessor, [pieces(preprocessor, np.random.default_rng(i), "wpsw"[i % 3 :]) for i in range(4)])
    alone = embed(pooling, attention, inputs)
    with jax.set_mesh(mesh.make_mesh((2, 2, 2))):
        spread = np.asarray(
            jax.jit(lambda inputs: encoder_of(pooling, attention).apply(
                {"params": init_params(encoder_of(pooling, attention), jax.random.key(0))}, inputs
            ))(mesh.to_global(inputs))
        )  # fmt: skip
    np.testing.assert_allclose(spread, alone, atol=2e-5)


@pytest.mark.parametrize("attention", DIRECTIONS)
def test_only_bidirectional_tokens_depend_on_later_ones(preprocessor, attention):
    """Changing the tokens from the 8th on changes the hidden states before it, or does not."""
    encoder, params = encoder_of("mean", attention), params_of("mean", attention)

    @jax.jit
    def hidden(params, inputs):
        _, state = encoder.apply(
            {"params": params}, inputs, capture_intermediates=lambda module, _: module.name == "backbone"
        )
        return state["intermediates"]["backbone"]["__call__"][0]

    def states(tail):
        inputs = rows(preprocessor, [[TextPiece((*range(30, 37), *tail))]])
        return np.asarray(hidden(params, mesh.to_global(inputs)))[0]

    first, second = states(range(50, 70)), states(range(80, 100))
    same = np.array_equal(first[:8], second[:8])
    assert same == (attention == "causal") and np.abs(first[8:28] - second[8:28]).max() > 1e-3


def test_the_poolings_and_directions_give_different_vectors(preprocessor):
    inputs = rows(preprocessor, [pieces(preprocessor, np.random.default_rng(2))])
    vectors = np.stack([embed(pooling, attention, inputs)[0, 0] for pooling, attention in CASES])
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    assert (vectors @ vectors.T - np.eye(len(CASES))).max() < 0.9999
