"""Dense in float64 = dense = ring, in value and every gradient, over masks, widths, negatives and meshes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from embed import mesh
from embed.inputs import Pairs
from embed.loss.contrast import Candidates, contrast, dense
from embed.loss.ring import ring

ROWS, WIDTH, T = 16, 12, 0.1
MESHES = [(1, 1, 1), (1, 2, 1), (1, 4, 1), (1, 8, 1), (1, 2, 2), (1, 4, 2), (2, 2, 2)]
WIDTHS = [(12,), (4, 12), (3, 6, 12)]
RULES = [
    Candidates(in_batch=a, shared_negatives=b, margin=c, both_directions=d)
    for a, b, c, d in itertools.product((True, False), (True, False), (None, 0.2), (True, False))
]
DATA = range(13)  # x 16 rules = 208 cases


def formula(vectors, pairs, scale, candidates, widths):
    """The loss by its definition, one matrix of cosines a width, nothing shared with the package."""
    query, _, negative = vectors
    q, h = len(query), len(negative) // len(query)
    same = lambda a, b: (a[:, None] == b[None]).all(-1)  # noqa: E731
    keep = ~same(pairs.query_hash, pairs.query_hash) & ~same(pairs.target_hash, pairs.target_hash)
    keep &= pairs.valid[None] & candidates.in_batch
    owner = np.arange(q * h) // max(h, 1)
    mine = owner[None] == np.arange(q)[:, None]
    shared = ~same(pairs.query_hash, pairs.query_hash[owner]) & pairs.valid[owner][None]
    hard = (mine | (shared & candidates.shared_negatives)) & ~same(pairs.target_hash, pairs.negative_hash)
    loss = 0.0
    for width in widths:
        unit = [x[:, :width] / jnp.linalg.norm(x[:, :width], axis=1, keepdims=True) for x in vectors]
        cosines, negatives = unit[0] @ unit[1].T, unit[0] @ unit[2].T
        own = jnp.diagonal(cosines)
        ceiling = own + (np.inf if candidates.margin is None else candidates.margin)
        sharp = (scale / T)[:, None]
        rows = [jnp.where(keep & (cosines <= ceiling[:, None]), cosines * sharp, -np.inf)]
        rows += [jnp.where(hard & (negatives <= ceiling[:, None]), negatives * sharp, -np.inf)]
        positive = own * sharp[:, 0]
        each = logsumexp(jnp.concatenate([positive[:, None], *rows], 1), 1) - positive
        if candidates.both_directions:
            back = keep & pairs.valid[:, None] & (cosines <= ceiling[None])
            column = jnp.where(back, cosines * sharp, -np.inf)
            each = (each + logsumexp(jnp.concatenate([positive[None], column]), 0) - positive) / 2
        loss += jnp.sum(jnp.where(pairs.valid, each, 0)) / pairs.valid.sum() / len(widths)
    return loss


def random_case(seed: int, h: int):
    rng = np.random.default_rng(seed)
    vectors = [rng.standard_normal((n, WIDTH)).astype(np.float32) for n in (ROWS, ROWS, ROWS * h)]
    # Few distinct hashes, so that equal queries, equal targets and false hard negatives all occur.
    hashes = [np.stack([rng.integers(0, 6, n), rng.integers(0, 2, n)], 1).astype(np.uint32) for n in map(len, vectors)]
    valid = rng.random(ROWS) > 0.2
    valid[0] = True
    return vectors, Pairs(None, None, None, *hashes, valid), rng.uniform(0.5, 2, ROWS).astype(np.float32)


def relative(found, expected) -> float:
    expected = np.asarray(expected)
    return np.abs(np.asarray(found, np.float64) - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)


@pytest.mark.parametrize("number", range(len(RULES)))
def test_dense_in_float64_is_dense_is_ring(number):
    candidates, widths, h = RULES[number], WIDTHS[number % 3], (1, 0, 2)[number // 2 % 3]

    def loss(rivals, vectors, pairs, scale):
        return contrast(
            *vectors, pairs, temperature=T, widths=widths, candidates=candidates, scale=scale, rivals=rivals
        )

    ways = [dense, functools.partial(ring, tile=(2, 4)[number // 3 % 2])]
    with jax.set_mesh(mesh.make_mesh(MESHES[number % len(MESHES)])):
        ways = [jax.jit(jax.value_and_grad(functools.partial(loss, way), (0, 2), has_aux=True)) for way in ways]
        exact = functools.partial(formula, candidates=candidates, widths=widths)
        for seed in DATA:
            vectors, pairs, scale = random_case(100 * number + seed, h)
            with jax.enable_x64(True):
                double = [jnp.asarray(v, jnp.float64) for v in vectors], jnp.asarray(scale, jnp.float64)
                value, grads = jax.value_and_grad(lambda x: exact(x[0], pairs, x[1]))(double)  # noqa: B023
                value, grads = float(value), jax.tree.map(np.asarray, grads)
            placed = mesh.to_global((vectors, pairs, scale))
            results = [way(*placed) for way in ways]
            for (found, metrics), by in results:
                assert relative(found, value) <= 1e-5
                assert np.max(jax.tree.leaves(jax.tree.map(relative, by, grads))) <= 1e-5
                assert jax.tree.all(jax.tree.map(np.allclose, metrics, results[0][0][1]))
