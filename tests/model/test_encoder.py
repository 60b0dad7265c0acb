"""Properties of the encoder: packing, padding, both directions, interleaving, meshes, microbatches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH

from embed.batch import Inputs, Pairs
from embed.data.budget import Budget
from embed.data.collate import make_packed_rows, make_rows
from embed.data.pieces import AudioPiece, ImagePiece, TextPiece
from embed.distributed import mesh
from embed.model.build import build
from embed.model.encoder import encode, encode_by_microbatch, encode_pairs, init_params

MODEL = build(ARCH, remat=True)


def pieces(preprocessor, rng, order="wpsw"):
    """Random words, a picture and a sound in the given order."""
    made = {
        "w": lambda: TextPiece(tuple(rng.integers(20, 400, 5).tolist())),
        "p": lambda: ImagePiece(
            rng.integers(0, 256, (4, 192), np.uint8),
            np.array([[0, 0], [1, 0], [0, 1], [1, 1]]),
            preprocessor.tokenizer.image,
        ),
        "s": lambda: AudioPiece(
            rng.standard_normal((3, 640)).astype(np.float32),
        ),
    }
    return [made[kind]() for kind in order]


BUDGET = Budget(32, 2, 4, 1, 4)


def rows(preprocessor, many, budget=BUDGET):
    return make_rows(many, budget, preprocessor)


@pytest.fixture
def params():
    return init_params(MODEL, jax.random.key(0))


def embed(params, inputs: Inputs):
    return np.asarray(jax.jit(MODEL.apply)({"params": params}, mesh.to_global(inputs)))


def test_packed_equals_unpacked(preprocessor, params):
    rng = np.random.default_rng(1)
    one, two = pieces(preprocessor, rng, "wpw"), pieces(preprocessor, rng, "sw")
    alone = embed(params, rows(preprocessor, [one, two]))[:, 0]
    found = embed(params, make_packed_rows([[one, two]], Budget(48, 2, 4, 1, 4), preprocessor, max_segments=3))[0]
    np.testing.assert_allclose(found[:2], alone, atol=2e-5)
    assert not found[2].any()


def test_padding_changes_nothing(preprocessor, params):
    one = [pieces(preprocessor, np.random.default_rng(2))]
    small = embed(params, rows(preprocessor, one))
    large = embed(params, rows(preprocessor, one, Budget(61, 3, 7, 2, 9)))
    np.testing.assert_allclose(small, large, atol=2e-5)


def test_every_token_sees_both_sides_and_no_other_segment(preprocessor, params):
    inputs = rows(preprocessor, [[TextPiece(tuple(range(30, 58)))]] * 2)
    inputs.segments[:, 15:30] = 2
    inputs.positions[:, 15:30] = np.arange(15)
    inputs = mesh.to_global(dataclasses.replace(inputs, max_segments=2))

    def out(table):
        return MODEL.apply({"params": {**params, "vocabulary": table}}, inputs)

    # Distinct tokens, so the gradient of a table row is the influence of that place.
    jacobian = jax.jacobian(lambda t: jnp.sum(jnp.sin(out(t)), axis=(0, 2)))(params["vocabulary"])
    tokens = np.asarray(inputs.tokens[0])
    for segment, (start, stop) in enumerate([(1, 15), (15, 29)]):
        influence = np.abs(np.asarray(jacobian)[segment]).sum(-1)
        assert (influence[tokens[start:stop]] > 0).all()
        other = tokens[15:29] if segment == 0 else tokens[1:15]
        assert (influence[other] == 0).all()


def test_a_hidden_state_depends_on_what_is_before_and_behind_it(preprocessor, params):
    inputs = mesh.to_global(rows(preprocessor, [[TextPiece(tuple(range(30, 58)))]] * 2))
    module = build(ARCH, remat=False)

    def middle(table):
        variables = {"params": {**params, "vocabulary": table}}
        _, state = module.apply(variables, inputs, capture_intermediates=lambda m, _: m.name == "backbone")
        return jnp.sum(jnp.sin(state["intermediates"]["backbone"]["__call__"][0][:, 15]))

    influence = np.abs(np.asarray(jax.grad(middle)(params["vocabulary"]))).sum(-1)
    assert (influence[np.asarray(inputs.tokens[0, 1:29])] > 0).all()


def test_order_of_parts_matters(preprocessor, params):
    rng = np.random.default_rng(3)
    w, p, s, v = pieces(preprocessor, rng, "wpsw")
    orders = [[w, p, s, v], [p, w, s, v], [s, p, w, v], [v, p, s, w], [w, s, p, v]]
    found = embed(params, rows(preprocessor, orders))[:, 0]
    gaps = np.linalg.norm(found[:, None] - found[None], axis=-1) + np.eye(5)
    assert gaps.min() > 1e-4


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 4, 2)])
def test_same_numbers_on_every_mesh_and_microbatch(preprocessor, shape):
    many = [pieces(preprocessor, np.random.default_rng(i), "wpsw"[i % 3 :]) for i in range(16)]

    def run(microbatch):
        inputs = mesh.to_global(rows(preprocessor, many))
        params = init_params(MODEL, jax.random.key(0))

        def value(params):
            out = encode_by_microbatch(lambda x: MODEL.apply({"params": params}, x), inputs, microbatch)
            return jnp.sum(jnp.sin(out))

        value, grads = jax.jit(jax.value_and_grad(value))(params)
        return float(value), jax.tree.map(np.asarray, grads)

    value, grads = run(16)
    with jax.set_mesh(mesh.make_mesh(shape)):
        other, others = run(8)  # another mesh and another microbatch at once
    np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-4)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5 * largest), grads, others)


def test_a_microbatch_that_does_not_divide_is_an_error(preprocessor, params):
    inputs = mesh.to_global(rows(preprocessor, [pieces(preprocessor, np.random.default_rng(0))] * 6))
    with pytest.raises(ValueError, match="4 rows does not divide the batch of 6"):
        encode_by_microbatch(lambda x: x.tokens, inputs, 4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 2)])
@pytest.mark.parametrize("h", [0, 1, 3])
def test_targets_and_negatives_together_are_as_apart(preprocessor, h, shape):
    """Each row to its own vector, with gradients through all three sides, whatever device a row is on."""
    q = 8
    sides = {}
    for seed, (name, count) in enumerate({"query": q, "target": q, "negative": q * h}.items()):
        many = [pieces(preprocessor, np.random.default_rng(100 * seed + i)) for i in range(count)]
        sides[name] = make_rows(many, BUDGET, preprocessor)
    hashes = {f"{name}_hash": np.zeros((len(side.tokens), 2), np.uint32) for name, side in sides.items()}

    def encode(weight, inputs):  # stands in for the encoder: any function of a row will do
        sums = jnp.sum(inputs.patches / 255, axis=(1, 2, 3))
        return jnp.tanh(weight * inputs.tokens / 100 + sums[:, None])[:, None]

    with jax.set_mesh(mesh.make_mesh(shape)):
        pairs = mesh.to_global(Pairs(**sides, **hashes, valid=np.ones(q, bool)))

        def run(encode_all):
            def value(weight):
                out = encode_all(lambda inputs: encode(weight, inputs))
                return sum(jnp.sum((i + 1) * x) for i, x in enumerate(out)), out

            return jax.jit(jax.grad(value, has_aux=True))(jnp.float32(0.5))

        slope, out = run(lambda encode: encode_pairs(encode, pairs))
        parts = [pairs.query, pairs.target] + ([pairs.negative] if h else [])
        expected_slope, expected = run(lambda encode: [encode(part)[:, 0] for part in parts])
    assert out[2].shape == (q * h, BUDGET.tokens)
    for a, b in zip(out, expected, strict=False):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-5)


def test_groups_written_out_give_the_same_numbers(preprocessor, params):
    inputs = mesh.to_global(rows(preprocessor, [pieces(preprocessor, np.random.default_rng(5))]))

    def value(params, unroll):
        return jnp.sum(jnp.sin(build(ARCH, remat=False, unroll=unroll).apply({"params": params}, inputs)))

    (scanned, grads), (written, others) = (
        jax.jit(jax.value_and_grad(value), static_argnums=1)(params, u) for u in (1, 2)
    )
    np.testing.assert_allclose(scanned, written, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, others)


@pytest.mark.parametrize("unroll", [1, 2, 3, 4])
def test_gradients_do_not_depend_on_unrolling(preprocessor, unroll):
    """Groups of 3 local layers: 2 leaves a remainder, 4 is above the length."""
    arch = dataclasses.replace(ARCH, local_per_group=3)
    rows = mesh.to_global(make_rows([[TextPiece(tuple(range(20, 20 + n)))] for n in (3, 9)], Budget(12), preprocessor))

    def gradient(unroll):
        encoder = build(arch, unroll=unroll)
        params = init_params(encoder, jax.random.key(0))
        return jax.jit(jax.grad(lambda params: jnp.sum(jnp.sin(encode(encoder, params, rows)))))(params)

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), gradient(unroll), gradient(5))
