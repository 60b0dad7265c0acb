"""Regularizers, distillation and temperatures equal their float64 formulas, with either scorer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formula import T, formula, random_case, relative
from jax.scipy.special import xlogy

from embed.batch import REPORT_CANDIDATES, Candidates, Pairs
from embed.data.budget import Budget
from embed.data.collate import make_rows
from embed.data.pieces import AudioPiece, ImagePiece, TextPiece
from embed.distributed import mesh
from embed.losses import temperature as temperatures
from embed.losses.contrastive import contrastive_loss, identity
from embed.losses.distillation import TeacherTable, embedding_matching, kl_distillation, look_up
from embed.losses.negatives import gather_and_score
from embed.losses.regularizers import debiased, hard_negative_weighting, spread_out
from embed.losses.ring import ring_score

EVERYTHING = Candidates(cross_query_hard_negatives=True, margin=0.3, symmetric=True)
CASES = [  # mesh, rows, candidates, hard negatives, widths, alpha, prior
    ((1, 8, 1), 16, Candidates(symmetric=True), 0, (12,), 0.0, 0.02),
    ((1, 4, 2), 12, REPORT_CANDIDATES, 2, (4, 12), 5.0, None),
    ((2, 2, 2), 16, EVERYTHING, 1, (3, 6, 12), 5.0, 0.05),
]


def terms(vectors, teachers, logarithm, pairs, scale, scores, *, scorer, candidates, widths, alpha, prior):
    """Compute the contrastive loss with the options of `regularizers`, and every other term."""
    query, target, negative = vectors
    hard = hard_negative_weighting(alpha) if alpha else lambda scorer: scorer
    loss, metrics = contrastive_loss(
        *vectors,
        pairs,
        temperature=temperatures.clipped_exp(logarithm),
        widths=widths,
        candidates=candidates,
        scale=scale,
        scorer=scorer,
        hard_negative_weight=hard,
        negatives_transform=identity if prior is None else debiased(prior),
    )
    often = jnp.repeat(pairs.valid, len(negative) // len(query), out_sharding=mesh.ROWS)
    every = zip(vectors, teachers, (pairs.valid, pairs.valid, often), strict=True)
    values_by_term = {
        "contrast": loss,
        "spread_out": spread_out(query, pairs.valid, widths) + spread_out(target, pairs.valid, widths),
        "embedding_matching": sum(embedding_matching(*side) for side in every),
        "kl_distillation": kl_distillation(*vectors, pairs, scores, temperature=T, widths=widths),
    }
    return sum(values_by_term.values()), (values_by_term, metrics)


def exact(vectors, teachers, logarithm, pairs, scale, scores, *, candidates, widths, alpha, prior):
    """Compute the same by definition, with full matrices."""
    values_by_term = {
        "contrast": formula(vectors, pairs, scale, candidates, widths, jnp.exp(logarithm), alpha, prior),
        "spread_out": 0.0,
        "embedding_matching": 0.0,
        "kl_distillation": 0.0,
    }
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    q, valid = len(vectors[0]), pairs.valid
    h, n = len(vectors[2]) // q, valid.sum()
    for side, teacher in zip(vectors, teachers, strict=True):
        if len(side):
            mask = np.repeat(valid, len(side) // q)
            values_by_term["embedding_matching"] += (
                jnp.sum(jnp.sum((unit(side) - unit(teacher)) ** 2, 1)[mask]) / mask.sum()
            )
    equals_target = (np.repeat(pairs.target_hash, h, 0) == pairs.negative_hash).all(1).reshape(q, h)
    mask = np.concatenate([np.ones((q, 1), bool), ~equals_target], 1)
    softmax = lambda x: jnp.where(mask, jnp.exp(x), 0) / jnp.where(mask, jnp.exp(x), 0).sum(1, keepdims=True)  # noqa: E731
    teacher = softmax(scores)
    for width in widths:
        query, target, negative = (unit(x[:, :width]) for x in vectors)
        for side in (query[valid], target[valid]):
            values_by_term["spread_out"] += (
                ((side @ side.T) ** 2)[~np.eye(n, dtype=bool)].sum() / (n * (n - 1)) / len(widths)
            )
        keys = jnp.concatenate([target[:, None], negative.reshape(q, h, width)], 1)
        student = jnp.where(mask, softmax(jnp.einsum("qe,qne->qn", query, keys) / T), 1)
        per_example = jnp.sum(xlogy(teacher, teacher) - teacher * jnp.log(student), 1)
        values_by_term["kl_distillation"] += per_example[valid].mean() / len(widths)
    return sum(values_by_term.values()), values_by_term


@pytest.mark.parametrize("case", CASES)
def test_every_extra_equals_its_formula_with_both_losses(case):
    shape, rows, candidates, h, widths, alpha, prior = case
    options = {"candidates": candidates, "widths": widths, "alpha": alpha, "prior": prior}
    with jax.set_mesh(mesh.make_mesh(shape)):
        programs = [
            jax.jit(jax.value_and_grad(functools.partial(terms, scorer=scorer, **options), (0, 2, 4), has_aux=True))
            for scorer in (gather_and_score, functools.partial(ring_score, tile=2))
        ]
        for seed in range(4):
            rng = np.random.default_rng(seed)
            vectors, pairs, scale = random_case(seed, h, rows)
            teachers = [rng.standard_normal(v.shape).astype(np.float32) for v in vectors]
            scores = rng.standard_normal((len(scale), 1 + h)).astype(np.float32)
            with jax.enable_x64(True):
                double = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (vectors, teachers, np.log(T), scale))
                find = lambda v, t, g, s: exact(v, t, g, pairs, s, scores, **options)  # noqa: B023, E731
                (_, values), grads = jax.jit(jax.value_and_grad(find, (0, 2, 3), has_aux=True))(*double)
                values, grads = jax.tree.map(np.asarray, (values, grads))
            placed = mesh.to_global((vectors, teachers, pairs, scale, scores))
            placed = (*placed[:2], temperatures.init_log_temperature(T), *placed[2:])
            results = [program(*placed) for program in programs]
            for (_, (values_by_term, metrics)), by in results:
                assert (
                    max(relative(values_by_term[name], values[name]) for name in values if values[name] > 1e-20) <= 1e-5
                )
                assert np.max(jax.tree.leaves(jax.tree.map(relative, by, grads))) <= 1e-5
                assert jax.tree.all(jax.tree.map(np.allclose, metrics, results[0][0][1][1]))


def test_hard_negatives_weigh_more_and_accuracy_does_not_see_it():
    vectors, pairs, _ = mesh.to_global(random_case(0, 2))

    @jax.jit
    def weighted_loss(alpha):
        return contrastive_loss(
            *vectors, pairs, temperature=T, widths=(12,), hard_negative_weight=hard_negative_weighting(alpha)
        )

    plain = jax.jit(lambda: contrastive_loss(*vectors, pairs, temperature=T, widths=(12,)))()
    losses, metrics = zip(*map(weighted_loss, (0.0, 2.0, 5.0)), strict=True)
    np.testing.assert_allclose(losses[0], plain[0], rtol=1e-6)
    assert len({float(loss) for loss in losses}) == 3
    assert metrics[0] == metrics[1] == metrics[2] == plain[1]


def test_a_prior_of_nothing_changes_nothing_and_an_impossible_one_is_an_error():
    vectors, pairs, _ = mesh.to_global(random_case(0, 1))

    def value(transform):
        options = {"temperature": T, "widths": (12,), "negatives_transform": transform}
        return jax.jit(lambda: contrastive_loss(*vectors, pairs, **options)[0])()

    np.testing.assert_allclose(value(identity), value(debiased(0.0)), rtol=1e-6)
    with pytest.raises(ValueError, match="prior=1"):
        debiased(1)


def test_a_floor_stands_under_the_corrected_sum():
    """With a large prior, the corrected sum would be negative."""
    query = np.eye(4, 12, dtype=np.float32)
    hashes = [np.arange(8, dtype=np.uint32).reshape(4, 2) + 8 * i for i in range(2)] + [np.zeros((0, 2), np.uint32)]
    pairs = mesh.to_global(Pairs(None, None, None, *hashes, np.ones(4, bool)))
    sides = mesh.to_global([query, query, query[:0]])

    def loss(sides):
        return contrastive_loss(*sides, pairs, temperature=1.0, widths=(12,), negatives_transform=debiased(0.5))[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(sides)
    np.testing.assert_allclose(value, np.log(np.e + 3 / np.e) - 1, rtol=1e-6)
    assert all(np.isfinite(g).all() for g in grads)


def test_a_teacher_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"\(4, 8\) cannot match the teacher's \(4, 6\)"):
        embedding_matching(jnp.ones((4, 8)), jnp.ones((4, 6)), jnp.ones(4, bool))


def test_spreading_out_takes_no_matrix_of_the_batch():
    n, e = 4096, 24
    program = jax.make_jaxpr(jax.grad(lambda x: spread_out(x, jnp.ones(n, bool), (8, e))))(jnp.ones((n, e)))
    assert max(var.aval.size for equation in program.eqns for var in equation.outvars) == n * e


def test_a_learned_temperature_stays_in_its_bounds_and_finds_back():
    low, high = np.log(temperatures.MIN_TEMPERATURE), np.log(temperatures.MAX_TEMPERATURE)
    logs = jnp.array([low - 1, -2.0, high + 1])
    np.testing.assert_allclose(temperatures.clipped_exp(logs), [0.01, np.exp(-2), 1.0], rtol=1e-6)
    up, down = (jax.grad(lambda x: s * jnp.sum(temperatures.clipped_exp(x)))(logs) for s in (1.0, -1.0))  # noqa: B023
    np.testing.assert_allclose(up, [0, np.exp(-2), 1.0], rtol=1e-6)  # a step down: back from above, not on from below
    np.testing.assert_allclose(down, [-0.01, -np.exp(-2), 0], rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 2)])
def test_temperatures_of_modalities_meet_in_a_pair(shape):
    vectors, pairs, _ = random_case(3, 1)
    rng = np.random.default_rng(0)
    query, target = (np.concatenate([np.ones((16, 1), bool), rng.random((16, 2)) > 0.5], 1) for _ in range(2))
    start = np.array([0.05, 0.1, 0.2])

    def mean_temperature(temperature, has):
        return (has * temperature[None]).sum(1) / has.sum(1)

    with jax.set_mesh(mesh.make_mesh(shape)):
        placed = mesh.to_global((vectors, pairs, query, target))

        @jax.jit
        @jax.value_and_grad
        def loss(logs, vectors, pairs, query, target):
            scale = 1 / temperatures.pair_temperature(temperatures.clipped_exp(logs), query, target)
            return contrastive_loss(*vectors, pairs, temperature=1.0, widths=(4, 12), scale=scale, scorer=ring_score)[0]

        value, by = loss(jnp.log(jnp.asarray(start, jnp.float32)), *placed)
    with jax.enable_x64(True):

        def exact(logs):
            temperature = jnp.exp(logs)
            scale = 2 / (mean_temperature(temperature, query) + mean_temperature(temperature, target))
            return formula(
                [jnp.asarray(v, jnp.float64) for v in vectors], pairs, scale, REPORT_CANDIDATES, (4, 12), 1.0
            )

        expected, slope = jax.value_and_grad(exact)(jnp.log(jnp.asarray(start)))
    assert relative(value, expected) <= 1e-5 and relative(by, slope) <= 1e-5


def test_modalities_are_what_is_in_a_row_and_nothing_counts_as_words(preprocessor):
    word = TextPiece((20, 21))
    picture = ImagePiece(
        np.zeros((4, 192), np.uint8), np.array([[0, 0], [1, 0], [0, 1], [1, 1]]), preprocessor.tokenizer.image
    )
    sound = AudioPiece(np.ones((3, 640), np.float32))
    rows = [[word], [picture], [sound], [word, sound], [picture, word], [picture, sound], None, []]
    has = temperatures.has_modalities(make_rows(rows, Budget(32, 2, 4, 1, 4), preprocessor))
    expected = ["w", "p", "s", "ws", "pw", "ps", "w", "w"]
    assert [[letter in letters for letter in "wps"] for letters in expected] == np.asarray(has).tolist()
    has = temperatures.has_modalities(make_rows([[word], None], Budget(16), preprocessor))  # a task without media
    assert np.asarray(has).tolist() == [[True, False, False]] * 2


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2)])
@pytest.mark.parametrize("count", [5, 300])
def test_a_teacher_is_looked_up_by_content(shape, count):
    """Hashes that share a word, in any order; what it does not have is not known."""
    rng = np.random.default_rng(count)
    hashes = np.stack([rng.permutation(count) // 2, rng.permutation(count)], axis=1).astype(np.uint32)
    table = TeacherTable(hashes, rng.normal(size=(count, 12)).astype(np.float32))
    chosen = rng.integers(0, count, 16)
    asked = hashes[chosen]
    asked[3] = (hashes[0, 0], count + 1)
    with jax.set_mesh(mesh.make_mesh(shape)):
        vectors, is_known = jax.jit(functools.partial(look_up, table))(mesh.to_global(asked))
        vectors, is_known = mesh.to_host(vectors), mesh.to_host(is_known)
    assert is_known.tolist() == [i != 3 for i in range(16)]
    np.testing.assert_array_equal(vectors[is_known], table.embeddings[chosen][is_known])
