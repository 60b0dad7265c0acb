"""The gradient of a full step, microbatched, sharded, with dropout and with either scorer, is the plain encoder's.

The encoder keeps norms, pooling and projection in float32 whatever the default, so what is compared with is the same
encoder in float32, all rows at once on one device, with the float64 gradient of the formula pulled back through it.
Every parameter's gradient is compared, relative to the largest number of its leaf; those of the layers' scalars, sums
over the whole batch that nearly cancel before a norm, to the largest of all.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH
from flax.traverse_util import flatten_dict
from formula import T, formula, random_pairs, relative

from embed.batch import REPORT_CANDIDATES, Candidates, Dropout, Pairs
from embed.data.budget import Budget
from embed.data.collate import make_rows
from embed.data.pieces import ImagePiece, TextPiece
from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss
from embed.losses.negatives import gather_and_score
from embed.losses.ring import ring_score
from embed.model.build import build
from embed.model.encoder import encode_by_microbatch, encode_pairs, init_params

SMALL = dataclasses.replace(
    ARCH, vocab_size=128, d_model=16, d_ff=24, layer_groups=1, per_layer_dim=4, matryoshka_dims=(4, 8, 16)
)
BUDGET = Budget(10, images=1, patches=2)
SYMMETRIC = Candidates(cross_query_hard_negatives=True, symmetric=True)
SEEDS = range(5)
CASES = [  # mesh, queries, rows of a microbatch, hard negatives, candidates, loss, tile, rate of dropout, recomputed
    ((1, 1, 1), 16, 4, 0, REPORT_CANDIDATES, gather_and_score, None, 0.0, False),
    ((1, 2, 1), 16, 4, 1, REPORT_CANDIDATES, ring_score, 4, 0.2, False),
    ((8, 1, 1), 16, 8, 1, SYMMETRIC, ring_score, 512, 0.2, False),
    (
        (1, 4, 2),
        12,
        4,
        1,
        Candidates(margin=0.3, symmetric=True),
        ring_score,
        2,
        0.2,
        False,
    ),  # of 8 devices, 4 divide 12
    ((2, 2, 2), 12, 12, 1, SYMMETRIC, ring_score, 2, 0.2, True),
]


def random_batch(preprocessor, seed: int, q: int, h: int) -> Pairs:
    """Make pairs of text and images; some rows are invalid, among them the last two."""
    rng = np.random.default_rng(seed)

    def piece():
        if rng.random() < 0.3:
            return ImagePiece(
                rng.integers(0, 256, (2, 192), np.uint8), np.array([[0, 0], [1, 0]]), preprocessor.tokenizer.image
            )
        return TextPiece(tuple(rng.integers(20, 120, rng.integers(1, 7)).tolist()))

    sides = [[[piece()] for _ in range(n)] for n in (q, q, q * h)]
    query, target, negative = (make_rows(side, BUDGET, preprocessor) for side in sides)
    pairs = dataclasses.replace(random_pairs(rng, q, h), query=query, target=target, negative=negative)
    pairs.valid[-2:] = False
    return pairs


@functools.cache
def compile_plain_encoder(rate):
    """Compile (params, pairs, key) -> vectors, and its pullback: vector gradients -> parameter gradients."""
    encoder = build(SMALL, remat=False)

    def vectors(params, pairs, key):
        return encode_pairs(lambda rows: encoder.apply({"params": params}, rows), pairs, Dropout(key, rate))

    def pull_back(params, pairs, key, by):
        return jax.vjp(lambda params: vectors(params, pairs, key), params)[1](by)[0]

    return jax.jit(vectors), jax.jit(pull_back)


@functools.cache
def compile_formula(candidates):
    """Compile (vectors, pairs) -> value and vector gradients of the formula."""

    def exact(vectors, pairs):
        return formula(vectors, pairs, np.ones(len(pairs.valid)), candidates, SMALL.matryoshka_dims)

    return jax.jit(jax.value_and_grad(exact))


def by_definition(params, pairs, key, candidates, rate):
    """(value, gradients) of the step."""
    vectors, pull_back = compile_plain_encoder(rate)
    placed = mesh.to_global(pairs)
    sides = [np.asarray(side, np.float64) for side in vectors(params, placed, key)]
    with jax.enable_x64(True):
        fields = pairs.query_hash, pairs.target_hash, pairs.negative_hash, pairs.valid
        value, by = compile_formula(candidates)([jnp.asarray(x) for x in sides], Pairs(None, None, None, *fields))
        value, by = float(value), tuple(np.asarray(x, np.float32) for x in by)
    return value, jax.tree.map(np.asarray, pull_back(params, placed, key, mesh.to_global(by)))


@pytest.mark.parametrize("case", CASES)
def test_the_step_is_that_of_the_plain_encoder(preprocessor, case):
    shape, q, microbatch, h, candidates, scorer, tile, rate, remat = case
    scorer = scorer if tile is None else functools.partial(scorer, tile=tile)
    encoder = build(SMALL, remat=remat)

    def loss(params, pairs, key):
        def embed(inputs):
            return encode_by_microbatch(lambda rows: encoder.apply({"params": params}, rows), inputs, microbatch)

        sides = encode_pairs(embed, pairs, Dropout(key, rate))
        return contrastive_loss(
            *sides, pairs, temperature=T, widths=SMALL.matryoshka_dims, candidates=candidates, scorer=scorer
        )[0]

    batches = [random_batch(preprocessor, seed, q, h) for seed in SEEDS]
    params = init_params(encoder, jax.random.key(0))
    expected = [by_definition(params, x, jax.random.key(i), candidates, rate) for i, x in enumerate(batches)]
    with jax.set_mesh(mesh.make_mesh(shape)):
        params = init_params(encoder, jax.random.key(0))
        step = jax.jit(jax.value_and_grad(loss))
        for seed, (pairs, (value, grads)) in enumerate(zip(batches, expected, strict=True)):
            step_value, step_grads = step(params, mesh.to_global(pairs), jax.random.key(seed))
            assert relative(step_value, value) <= 1e-5
            largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
            step_grads = flatten_dict(step_grads)
            grads = flatten_dict(grads)
            for path, leaf in grads.items():
                size = largest if path[-1] == "scalar" else np.abs(leaf).max()
                assert np.abs(step_grads[path] - leaf).max() <= 1e-5 * size, path
