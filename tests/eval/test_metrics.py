import numpy as np
import pytest
import pytrec_eval
from scipy import stats
from sklearn.metrics import accuracy_score, ndcg_score, top_k_accuracy_score

from embed.eval.metrics import accuracy, chance_hit, evaluate_ranking, wilson_interval

KS = (1, 3, 10)


def random_case(rng: np.random.Generator):
    """A ranking of a few queries with graded, possibly unretrieved relevant documents, often shorter than k."""
    n = int(rng.integers(3, 40))
    depth = int(rng.integers(1, min(n, 15) + 1))
    q = int(rng.integers(1, 4))
    ranking = np.stack([rng.permutation(n)[:depth] for _ in range(q)]).astype(np.int32)
    judged = [rng.permutation(n)[: rng.integers(1, n)] for _ in range(q)]
    return ranking, [{int(j): int(rng.integers(0, 4)) for j in row} for row in judged]


def test_equals_trec_eval_on_random_cases():
    """Relevant documents that were not found, and ties: trec_eval puts the later name of equal scores first."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        ranking, relevance = random_case(rng)
        names = [f"q{i}" for i in range(len(ranking))]
        qrel, run = {}, {}
        for name, row, grades in zip(names, ranking.tolist(), relevance, strict=True):
            called = {j: f"{999 - place:03d}" for place, j in enumerate(row)}
            qrel[name] = {called.get(j, f"d{j}"): grade for j, grade in grades.items()}
            scores = np.sort(rng.integers(0, 8, len(row)))[::-1]
            run[name] = {called[j]: float(score) for j, score in zip(row, scores, strict=True)}
        wanted = {f"{m}.{','.join(map(str, KS))}" for m in ("success", "recall", "ndcg_cut")} | {"recip_rank"}
        result = pytrec_eval.RelevanceEvaluator(qrel, wanted).evaluate(run)
        ours = evaluate_ranking(ranking, relevance, (*KS, 50))
        for k in KS:
            for mine, theirs in ((f"hit@{k}", "success"), (f"recall@{k}", "recall"), (f"ndcg@{k}", "ndcg_cut")):
                mean = np.mean([result[name][f"{theirs}_{k}"] for name in names])
                assert ours[mine] == pytest.approx(mean, abs=1e-9), (mine, ranking, relevance)
            ranks = [result[name]["recip_rank"] for name in names]
            assert ours[f"mrr@{k}"] == pytest.approx(np.mean([r if r >= 1 / k - 1e-9 else 0 for r in ranks]), abs=1e-9)
        assert ours["mrr@50"] == pytest.approx(np.mean([result[name]["recip_rank"] for name in names]), abs=1e-9)


@pytest.mark.parametrize("seed", range(50))
def test_equals_scikit_learn(seed):
    """Twenty queries each."""
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 4, size=(20, 20))
    scores = rng.random((20, 20))
    ranking = np.argsort(-scores, axis=1)
    relevance = [dict(enumerate(row)) for row in grades.tolist()]
    ours = evaluate_ranking(ranking, relevance, (1, 5, 20))
    for k in (1, 5, 20):
        assert ours[f"ndcg@{k}"] == pytest.approx(ndcg_score(grades, scores, k=k))
    labels = rng.integers(0, 20, size=20)
    ours = evaluate_ranking(ranking, [{int(label): 1} for label in labels], (1, 5))
    for k in (1, 5):
        assert ours[f"hit@{k}"] == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=np.arange(20)))
    assert accuracy(ranking[:, 0], labels) == pytest.approx(accuracy_score(labels, ranking[:, 0])) == ours["hit@1"]


def test_missing_candidates_and_queries_without_relevant_ones_count_zero():
    metrics = evaluate_ranking(np.array([[-1, 4, -1], [2, 1, 0]]), [{4: 1, 9: 1}, {}], (3,))
    assert metrics["hit@3"] == 0.5 and metrics["recall@3"] == 0.25 and metrics["mrr@3"] == 0.25
    assert evaluate_ranking(np.array([[0]]), [{-1: 5, 0: 0}], (1,))["hit@1"] == 0


def test_bad_rankings_are_refused():
    for ranking, relevance, ks, message in [
        ([[0, 1]], [], (1,), "1 rankings"),
        ([[0, 1]], [{0: 1}], (0,), "cutoffs"),
        ([[1, 1]], [{0: 1}], (1,), "twice"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate_ranking(np.array(ranking), relevance, ks)
    with pytest.raises(ValueError, match="predictions"):
        accuracy(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="more relevant"):
        chance_hit(np.array([5]), 4, 1)


def test_chance_is_what_random_rankings_score():
    rng = np.random.default_rng(2)
    counts, n, draws = np.array([1, 2, 7]), np.array([12, 30, 12]), 20_000
    for k in (1, 5, 12):
        hits = [
            (rng.random((draws, m)).argsort(axis=1)[:, :k] < r).any(axis=1).mean()
            for r, m in zip(counts, n, strict=True)
        ]
        assert chance_hit(counts, n, k) == pytest.approx(np.mean(hits), abs=0.01)
    assert chance_hit(np.array([1, 1]), 200, 1) == pytest.approx(1 / 200)
    assert chance_hit(np.array([1]), 200, 10) == pytest.approx(10 / 200)
    assert chance_hit(np.array([3]), 4, 10) == 1 and chance_hit(np.array([0]), 4, 10) == 0


def test_wilsons_interval_is_scipys_and_stays_in_range():
    for hits, count in ((0, 10), (3, 10), (10, 10), (50, 400)):
        interval = stats.binomtest(hits, count).proportion_ci(0.95, "wilson")
        assert wilson_interval(hits / count, count) == pytest.approx((interval.low, interval.high), abs=1e-4)
    for mean, count in ((1.1, 5), (-0.1, 5), (0.5, 0)):
        with pytest.raises(ValueError, match="the interval of a mean"):
            wilson_interval(mean, count)
