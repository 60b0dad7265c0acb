"""What dropout leaves out is decided by a row's key alone, not by microbatch, mesh or what lies beside it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH

from embed.batch import Dropout, Inputs, Pairs
from embed.data.budget import Budget
from embed.data.collate import make_rows
from embed.data.pieces import TextPiece
from embed.distributed import mesh
from embed.model.build import build
from embed.model.encoder import encode_by_microbatch, encode_pairs, init_params
from embed.model.layers import apply_dropout
from embed.model.transformer import Layer

BUDGET = Budget(12)
Q, H = 8, 1
MESHES = [(1, 1, 1), (1, 8, 1), (1, 4, 2), (2, 2, 2)]


@pytest.fixture
def pairs(preprocessor) -> Pairs:
    def side(seed: int, count: int) -> Inputs:
        rng = np.random.default_rng(seed)
        many = [[TextPiece(tuple(rng.integers(20, 400, rng.integers(2, 9)).tolist()))] for _ in range(count)]
        return make_rows(many, BUDGET, preprocessor)

    hashes = [np.arange(2 * n, dtype=np.uint32).reshape(n, 2) for n in (Q, Q, Q * H)]
    return Pairs(side(0, Q), side(1, Q), side(2, Q * H), *hashes, np.ones(Q, bool))


def keys_of(pairs: Pairs, microbatch: int, key: int = 5) -> list[np.ndarray]:
    """The key data of every row of the three sides, as the encoder gets them."""

    def embed(inputs):
        return encode_by_microbatch(lambda rows: jax.random.key_data(rows.dropout.key)[:, None], inputs, microbatch)

    run = jax.jit(lambda pairs, key: encode_pairs(embed, pairs, Dropout(key, 0.5)))
    return [np.asarray(side) for side in run(mesh.to_global(pairs), jax.random.key(key))]


@pytest.mark.parametrize("shape", MESHES)
def test_keys_and_masks_are_the_same_bits_on_every_mesh_and_in_every_microbatch(pairs, shape):
    def masks(keys):
        return apply_dropout(jnp.ones((Q, 6, 16), out_sharding=mesh.TOKENS), Dropout(keys, 0.3), 1)

    keys = keys_of(pairs, Q * 4)
    expected = np.asarray(masks(jax.random.wrap_key_data(jnp.asarray(keys[0]))))
    with jax.set_mesh(mesh.make_mesh(shape)):
        assert all(map(np.array_equal, keys_of(pairs, Q), keys))
        found = jax.jit(masks)(jax.random.wrap_key_data(mesh.to_global(keys[0])))
        assert np.array_equal(found, expected)


def test_every_row_of_every_side_has_a_key_that_only_step_side_and_number_decide(pairs):
    keys = np.concatenate(keys_of(pairs, Q))
    assert len(np.unique(keys, axis=0)) == len(keys) == Q * (2 + H)
    assert len(np.unique(np.concatenate([keys, *keys_of(pairs, Q, key=6)]), axis=0)) == 2 * len(keys)
    other = dataclasses.replace(pairs, query=pairs.target, negative=jax.tree.map(lambda x: x[:0], pairs.negative))
    assert all(map(np.array_equal, keys_of(other, Q)[:2], keys_of(pairs, Q)[:2]))


def test_a_share_is_left_out_and_the_mean_stays():
    keys = jax.random.split(jax.random.key(0), 64)
    found = np.asarray(apply_dropout(jnp.ones((64, 32, 32)), Dropout(keys, 0.25), 0))
    assert set(np.unique(found)) == {0, np.float32(1 / 0.75)}
    np.testing.assert_allclose([np.mean(found == 0), np.mean(found)], [0.25, 1], atol=0.01)
    rows = (found == 0).reshape(64, -1).astype(np.float32)
    assert np.abs(np.corrcoef(rows) - np.eye(64)).max() < 0.2  # of independent ones, 6 deviations
    other = np.asarray(apply_dropout(jnp.ones((64, 32, 32)), Dropout(keys, 0.25), 1)) == 0
    np.testing.assert_allclose(np.mean(other & (found == 0)), 0.25**2, atol=0.01)
    half = apply_dropout(jnp.ones((64, 32, 32), jnp.bfloat16), Dropout(keys, 0.25), 0)
    assert half.dtype == jnp.bfloat16 and np.array_equal(half == 0, found == 0)
    with jax.enable_x64(True):
        assert np.array_equal(
            np.asarray(apply_dropout(jnp.ones((64, 32, 32)), Dropout(keys, 0.25), 0)) == 0, found == 0
        )


def test_every_layer_has_masks_of_its_own(pairs):
    seen = []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, Layer) and args[4] is not None:
            seen.append(jax.random.key_data(args[4].key))
        return call(*args, **kwargs)

    encoder = build(ARCH, remat=False, unroll=ARCH.layer_groups)
    params = init_params(encoder, jax.random.key(0))
    inputs = mesh.to_global(pairs.query)
    inputs = dataclasses.replace(inputs, dropout=Dropout(jax.random.split(jax.random.key(1), Q), 0.5))
    with nn.intercept_methods(watch):
        encoder.apply({"params": params}, inputs)
    keys = np.concatenate(seen)
    assert len(np.unique(keys, axis=0)) == len(keys) == ARCH.num_layers * Q


def test_without_dropout_the_program_is_what_it_was(pairs):
    encoder = build(ARCH)
    params = init_params(encoder, jax.random.key(0))

    def lowered(*dropout):
        def value(params, pairs, key):
            def embed(inputs):
                return encode_by_microbatch(lambda rows: encoder.apply({"params": params}, rows), inputs, 4)

            return sum(jnp.sum(side) for side in encode_pairs(embed, pairs, *(Dropout(key, x) for x in dropout)))

        return jax.jit(jax.grad(value)).lower(params, mesh.to_global(pairs), jax.random.key(0)).as_text()

    plain = lowered()
    assert plain == lowered(0.0) != lowered(0.1)
