"""Dense in float64 = dense = ring, in value and every gradient, over masks, widths, negatives and meshes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formula import T, formula, random_case, relative

from embed.batch import Candidates
from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss
from embed.losses.negatives import gather_and_score
from embed.losses.ring import ring_score

MESHES = [(1, 1, 1), (1, 2, 1), (1, 4, 1), (1, 8, 1), (1, 2, 2), (1, 4, 2), (2, 2, 2)]
WIDTHS = [(12,), (4, 12), (3, 6, 12)]
RULES = [
    Candidates(in_batch=a, cross_query_hard_negatives=b, margin=c, symmetric=d)
    for a, b, c, d in itertools.product((True, False), (True, False), (None, 0.2), (True, False))
]
DATA = range(13)  # x 16 rules = 208 cases


@pytest.mark.parametrize("number", range(len(RULES)))
def test_dense_in_float64_is_dense_is_ring(number):
    candidates, widths, h = RULES[number], WIDTHS[number % 3], (1, 0, 2)[number // 2 % 3]

    def loss(scorer, vectors, pairs, scale):
        return contrastive_loss(
            *vectors, pairs, temperature=T, widths=widths, candidates=candidates, scale=scale, scorer=scorer
        )

    scorers = [gather_and_score, functools.partial(ring_score, tile=(2, 4)[number // 3 % 2])]
    with jax.set_mesh(mesh.make_mesh(MESHES[number % len(MESHES)])):
        programs = [
            jax.jit(jax.value_and_grad(functools.partial(loss, scorer), (0, 2), has_aux=True)) for scorer in scorers
        ]
        exact = jax.jit(
            jax.value_and_grad(lambda x, pairs: formula(x[0], pairs, x[1], candidates=candidates, widths=widths))
        )
        for seed in DATA:
            vectors, pairs, scale = random_case(100 * number + seed, h)
            with jax.enable_x64(True):
                double = [jnp.asarray(v, jnp.float64) for v in vectors], jnp.asarray(scale, jnp.float64)
                value, grads = exact(double, pairs)
                value, grads = float(value), jax.tree.map(np.asarray, grads)
            placed = mesh.to_global((vectors, pairs, scale))
            results = [program(*placed) for program in programs]
            for (scorer_value, metrics), by in results:
                assert relative(scorer_value, value) <= 1e-5
                assert np.max(jax.tree.leaves(jax.tree.map(relative, by, grads))) <= 1e-5
                assert jax.tree.all(jax.tree.map(np.allclose, metrics, results[0][0][1]))
