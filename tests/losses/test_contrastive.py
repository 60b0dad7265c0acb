"""The loss against a plain float64 loop over the report's formula, over random masks, negatives and widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embed.batch import Candidates, Pairs
from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss
from embed.losses.distillation import embedding_matching, kl_distillation
from embed.losses.negatives import gather_and_score
from embed.losses.regularizers import spread_out
from embed.losses.ring import ring_score

T = 0.1


def random_case(seed: int):
    rng = np.random.default_rng(seed)
    q, h, e = int(rng.choice([4, 8])), int(rng.integers(0, 3)), 12
    vectors = [rng.standard_normal((n, e)).astype(np.float32) for n in (q, q, q * h)]
    # Few distinct hashes, so that equal queries, equal targets and false hard negatives all occur.
    hashes = [np.stack([rng.integers(0, 4, n), rng.integers(0, 2, n)], 1).astype(np.uint32) for n in (q, q, q * h)]
    valid = rng.random(q) > 0.2
    valid[0] = True
    pairs = Pairs(None, None, None, *hashes, valid)
    candidates = Candidates(
        in_batch=bool(rng.random() > 0.2),
        cross_query_hard_negatives=bool(rng.random() > 0.5),
        margin=None if rng.random() > 0.5 else 0.2,
        symmetric=bool(rng.random() > 0.5),
    )
    scale = rng.uniform(0.5, 2, q).astype(np.float32) if rng.random() > 0.5 else None
    return vectors, pairs, candidates, scale


def reference(vectors, pairs, candidates, scale, widths):
    """(loss, accuracy, mean number of negatives) by loops, in float64."""
    query, target, negative = (np.asarray(v, np.float64) for v in vectors)
    q, h = len(query), len(negative) // len(query)
    logit_scale = np.ones(q) if scale is None else np.asarray(scale, np.float64)
    same = lambda a, b: bool((a == b).all())  # noqa: E731
    qh, th, nh, valid = pairs.query_hash, pairs.target_hash, pairs.negative_hash, pairs.valid
    losses = []
    for width in widths:
        unit = [x[:, :width] / np.linalg.norm(x[:, :width], axis=1, keepdims=True) for x in (query, target, negative)]
        total, correct, num_negatives = [], [], []
        for i in np.flatnonzero(valid):
            positive = unit[0][i] @ unit[1][i]
            threshold = np.inf if candidates.margin is None else positive + candidates.margin
            negatives, reverse = [], []
            for j in np.flatnonzero(valid):
                if not candidates.in_batch or same(qh[i], qh[j]) or same(th[i], th[j]):
                    continue
                negatives.append(unit[0][i] @ unit[1][j])
                reverse.append((unit[0][j] @ unit[1][i], logit_scale[j]))
            for n in range(q * h):
                pair_index = n // h
                is_own = pair_index == i
                is_shared = (
                    candidates.cross_query_hard_negatives and valid[pair_index] and not same(qh[pair_index], qh[i])
                )
                if (is_own or is_shared) and not same(nh[n], th[i]):
                    negatives.append(unit[0][i] @ unit[2][n])
            negatives = [s for s in negatives if s <= threshold]
            positive_logit = positive * logit_scale[i] / T
            loss = (
                np.log(np.exp(positive_logit) + sum(np.exp(s * logit_scale[i] / T) for s in negatives)) - positive_logit
            )
            if candidates.symmetric:
                column = sum(np.exp(s * k / T) for s, k in reverse if s <= threshold)
                loss = (loss + np.log(np.exp(positive_logit) + column) - positive_logit) / 2
            total.append(loss)
            correct.append(not negatives or positive > max(negatives))
            num_negatives.append(len(negatives))
        losses.append(np.mean(total))
    return np.mean(losses), np.mean(correct), np.mean(num_negatives)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5, 8, 9, 11])
def test_value_and_gradient_equal_the_formula(seed):
    vectors, pairs, candidates, scale = random_case(seed)
    widths = [(12,), (4, 12), (3, 6, 12)][seed % 3]

    def loss(vectors):
        return contrastive_loss(*vectors, pairs, temperature=T, widths=widths, candidates=candidates, scale=scale)

    placed = [mesh.to_global(v) for v in vectors]
    pairs = mesh.to_global(pairs)
    (value, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(placed)
    host = jax.tree.map(np.asarray, pairs)
    expected, accuracy, num_negatives = reference(vectors, host, candidates, scale, widths)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], accuracy, atol=1e-6)
    np.testing.assert_allclose(metrics["effective_negatives"], num_negatives, rtol=1e-6)

    # Gradients by central differences of the float64 reference, along random directions.
    rng, step = np.random.default_rng(seed), 1e-5
    directions = [rng.standard_normal(v.shape) for v in vectors]
    ends = [
        reference(
            [v + s * step * d for v, d in zip(vectors, directions, strict=True)], host, candidates, scale, widths
        )[0]
        for s in (1, -1)
    ]
    slope = sum(float(np.sum(np.asarray(g, np.float64) * d)) for g, d in zip(grads, directions, strict=True))
    if candidates.margin is None:  # a margin's edge may lie between the two ends
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 4, 2), (2, 2, 2)])
def test_same_on_every_mesh(shape):
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal((n, 12)).astype(np.float32) for n in (16, 16, 16)]
    hashes = [rng.integers(0, 9, (16, 2)).astype(np.uint32) for _ in range(3)]
    pairs = Pairs(None, None, None, *hashes, rng.random(16) > 0.2)
    candidates = Candidates(cross_query_hard_negatives=True, margin=0.3, symmetric=True)

    def run():
        placed, global_pairs = [mesh.to_global(v) for v in vectors], mesh.to_global(pairs)
        loss = jax.jit(
            lambda v: contrastive_loss(*v, global_pairs, temperature=T, widths=(4, 12), candidates=candidates)[0]
        )
        value, grads = jax.value_and_grad(loss)(placed)
        return float(value), [np.asarray(g) for g in grads]

    value, grads = run()
    with jax.set_mesh(mesh.make_mesh(shape)):
        other_value, other_grads = run()
    np.testing.assert_allclose(value, other_value, rtol=1e-5)
    for a, b in zip(grads, other_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_rows_that_are_not_valid_change_nothing():
    rng = np.random.default_rng(1)
    vectors = [rng.standard_normal((6, 12)).astype(np.float32) for _ in range(2)] + [np.zeros((0, 12), np.float32)]
    hashes = [np.arange(12, dtype=np.uint32).reshape(6, 2)] * 2 + [np.zeros((0, 2), np.uint32)]

    def value(rows, valid):
        cut = [mesh.to_global(v[:rows]) for v in vectors]
        pairs = mesh.to_global(Pairs(None, None, None, *[x[:rows] for x in hashes], valid))
        return contrastive_loss(*cut, pairs, temperature=T, widths=(12,))

    (with_bad, metrics), (without, _) = value(6, np.array([1, 1, 1, 1, 0, 0], bool)), value(4, np.ones(4, bool))
    np.testing.assert_allclose(with_bad, without, rtol=1e-6)
    assert metrics["effective_negatives"] == 3
    assert jnp.isfinite(value(2, np.zeros(2, bool))[0])


def every_term(vectors, pairs, scorer):
    """The contrastive loss with every option, and every other term."""
    query, target, negative = vectors
    rules = Candidates(cross_query_hard_negatives=True, margin=0.3, symmetric=True)
    options = {"temperature": T, "widths": (4, 12)}
    teacher = jnp.concatenate([query[:, :1], target[:, :1]], axis=1)
    value, _ = contrastive_loss(
        query, target, negative, pairs, scorer=scorer, scale=query[:, 0], candidates=rules, **options
    )
    value += spread_out(query, pairs.valid, (4, 12)) + embedding_matching(query, target, pairs.valid)
    return value + kl_distillation(query, target, negative, pairs, teacher, **options)


@pytest.mark.parametrize("scorer", [gather_and_score, ring_score])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_nothing_in_an_invalid_row_reaches_a_value_or_a_gradient(bad, scorer):
    rng = np.random.default_rng(2)
    clean = [rng.uniform(0.1, 1, (8, 12)).astype(np.float32) for _ in range(3)]
    hashes = [mesh.to_global(rng.integers(0, 99, (8, 2)).astype(np.uint32)) for _ in range(3)]
    valid = np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)
    pairs = Pairs(None, None, None, *hashes, mesh.to_global(valid))
    corrupted = [np.where(valid[:, None], x, np.float32(bad)) for x in clean]
    step = jax.jit(jax.value_and_grad(lambda vectors: every_term(vectors, pairs, scorer)))
    value, grads = step([mesh.to_global(x) for x in clean])
    other_value, other_grads = step([mesh.to_global(x) for x in corrupted])
    assert np.isfinite(value) and value == other_value
    for grad, other_grad in zip(grads, other_grads, strict=True):
        np.testing.assert_array_equal(grad, other_grad)
        assert np.any(grad) and not np.any(np.asarray(grad)[~valid])
