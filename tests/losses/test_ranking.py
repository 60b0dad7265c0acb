"""The ranking loss of graded pairs equals its formula, on every mesh and at every width."""

import math

import jax
import numpy as np
import pytest
from formula import relative

from embed.distributed import mesh
from embed.losses.ranking import cosent

T = 0.05
CASES = [  # mesh, rows, widths
    ((1, 1, 1), 8, (12,)),
    ((1, 8, 1), 16, (4, 12)),
    ((2, 2, 2), 16, (3, 6, 12)),
]


def random_case(seed: int, rows: int) -> tuple[np.ndarray, ...]:
    """Sides f32[q,12], scores with ties f32[q], and valid bool[q]; rows that are not valid hold NaN."""
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(rows, 12)).astype(np.float32)
    target = (0.7 * query + rng.normal(size=(rows, 12))).astype(np.float32)
    valid = rng.random(rows) > 0.2
    query[~valid] = np.nan
    return query, target, rng.integers(0, 6, rows).astype(np.float32), valid


def formula(query, target, score, valid, widths) -> float:
    """Compute the loss in float64, term by term."""
    total = 0.0
    rows = [i for i in range(len(score)) if valid[i]]
    for width in widths:
        a, b = (side[:, :width].astype(np.float64) for side in (query, target))
        cosine = {i: a[i] @ b[i] / np.linalg.norm(a[i]) / np.linalg.norm(b[i]) for i in rows}
        terms = [math.exp((cosine[j] - cosine[i]) / T) for i in rows for j in rows if score[i] > score[j]]
        total += math.log1p(sum(terms)) / len(widths)
    return total


def value_and_grads(case, widths):
    def loss(query, target, score, valid):
        return cosent(query, target, score, valid, temperature=T, widths=widths)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(*mesh.to_global(case))


@pytest.mark.parametrize(("shape", "rows", "widths"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_it_equals_the_formula(shape, rows, widths, seed):
    case = random_case(seed, rows)
    query, target, score, valid = case
    with jax.set_mesh(mesh.make_mesh(shape)):
        (value, metrics), grads = value_and_grads(case, widths)
        value, grads = float(value), jax.tree.map(mesh.to_host, grads)
    assert value == pytest.approx(formula(*case, widths), rel=1e-5)
    assert not any(np.any(side[~valid]) for side in grads) and all(np.isfinite(side).all() for side in grads)

    # Along a direction, the gradient is the formula's difference quotient.
    rng, step = np.random.default_rng(seed), 1e-5
    direction = rng.normal(size=(2, *query.shape))
    ends = [
        formula(query + sign * step * direction[0], target + sign * step * direction[1], score, valid, widths)
        for sign in (1, -1)
    ]
    slope = sum(np.sum(grad[valid] * along[valid]) for grad, along in zip(grads, direction, strict=True))
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-3, abs=1e-4)
    cosine = np.sum(query * target, axis=1) / np.linalg.norm(query, axis=1) / np.linalg.norm(target, axis=1)
    in_order = [
        cosine[i] > cosine[j] for i in range(rows) for j in range(rows) if valid[i] & valid[j] & (score[i] > score[j])
    ]
    assert float(metrics["ordered"]) == pytest.approx(np.mean(in_order))


def test_the_mesh_changes_nothing():
    case = random_case(7, 16)
    outputs = []
    for shape in ((1, 1, 1), (1, 8, 1), (2, 2, 2)):
        with jax.set_mesh(mesh.make_mesh(shape)):
            (value, _), grads = value_and_grads(case, (4, 12))
            outputs.append((float(value), jax.tree.map(mesh.to_host, grads)))
    for value, grads in outputs[1:]:
        assert value == pytest.approx(outputs[0][0], rel=1e-6)
        assert max(relative(*sides) for sides in zip(grads, outputs[0][1], strict=True)) < 1e-5


def test_equal_scores_and_no_valid_pair_are_zero():
    query, target, score, valid = random_case(0, 8)
    for case in ((query, target, np.ones_like(score), valid), (query, target, score, np.zeros_like(valid))):
        (value, metrics), grads = value_and_grads(case, (12,))
        assert float(value) == 0 and float(metrics["ordered"]) == 0
        assert all(not np.any(mesh.to_host(side)) for side in grads)


def test_only_the_order_of_scores_counts():
    query, target, score, valid = random_case(3, 16)
    (first, _), _ = value_and_grads((query, target, score, valid), (12,))
    (second, _), _ = value_and_grads((query, target, np.exp(score), valid), (12,))
    (opposite, _), _ = value_and_grads((query, target, -score, valid), (12,))
    assert float(first) == float(second) != float(opposite)
