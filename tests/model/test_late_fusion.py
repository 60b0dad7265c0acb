"""Late fusion: what a tower sees, what it doesn't, and that an experiment can take it for an encoder."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import ARCH
from test_encoder import BUDGET, pieces, rows

from embed.data.budget import Budget
from embed.data.collate import make_packed_rows
from embed.distributed import mesh
from embed.model.build import build
from embed.model.encoder import init_params

MODEL = build(dataclasses.replace(ARCH, encoder="embed.model.late_fusion:LateFusion"))


@pytest.fixture
def params():
    return init_params(MODEL, jax.random.key(0))


def embed(params, inputs):
    return np.asarray(jax.jit(MODEL.apply)({"params": params}, mesh.to_global(inputs)))


def test_words_and_media_meet_in_a_sum_of_unit_vectors(preprocessor, params):
    rng = np.random.default_rng(0)
    words, picture, sound = (pieces(preprocessor, rng, kind) for kind in "wps")
    both, alone, seen, heard, mixed = embed(
        params, rows(preprocessor, [words + picture, words, picture, sound, picture + words + sound])
    )[:, 0]
    np.testing.assert_allclose(both, alone + seen, atol=2e-5)
    for one in (alone, seen, heard):
        assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(mixed - alone) == pytest.approx(1, abs=1e-5)


def test_words_are_those_of_an_encoder_of_their_own(preprocessor, params):
    words = rows(preprocessor, [pieces(preprocessor, np.random.default_rng(1), "w")] * 2, Budget(16))
    plain = np.asarray(build(ARCH).apply({"params": params["words"]}, mesh.to_global(words)))
    found = embed(params, words)
    np.testing.assert_allclose(found, plain / np.linalg.norm(plain, axis=-1, keepdims=True), atol=2e-5)
    assert "vision" in params["media"] and "vision" not in params["words"]


def test_packed_equals_unpacked_and_nothing_is_zero(preprocessor, params):
    rng = np.random.default_rng(2)
    one, two = pieces(preprocessor, rng, "wp"), pieces(preprocessor, rng, "s")
    alone = embed(params, rows(preprocessor, [one, two]))[:, 0]
    found = embed(params, make_packed_rows([[one, two]], Budget(48, 2, 4, 1, 4), preprocessor, max_segments=3))[0]
    np.testing.assert_allclose(found[:2], alone, atol=2e-5)
    assert not found[2].any()


def test_gradients_are_finite_where_a_side_is_missing(preprocessor, params):
    inputs = mesh.to_global(rows(preprocessor, [pieces(preprocessor, np.random.default_rng(3), "p"), None], BUDGET))

    def loss(params):
        return jax.numpy.sum(jax.numpy.sin(MODEL.apply({"params": params}, inputs)))

    grads = jax.jit(jax.grad(loss))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    # a picture alone has <bos> and <eos> too, which are no words
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["words"]))
