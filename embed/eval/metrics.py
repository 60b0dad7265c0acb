"""Ranking metrics in numpy as trec_eval defines them, each the mean over all queries."""

from collections.abc import Mapping, Sequence

import numpy as np

Relevance = Sequence[Mapping[int, int]]  # of every query: candidate -> grade; those above zero are relevant


def evaluate_ranking(ranking: np.ndarray, relevance: Relevance, ks: Sequence[int]) -> dict[str, float]:
    """Compute means over the queries of a ranking i32[q,m], best first, with every cutoff k of `ks`.

    `hit@k`: whether a relevant candidate is among the first k (R@k in retrieval papers; hit@1 over labels is accuracy).
    `recall@k`: the share of relevant candidates among the first k. `ndcg@k`: with linear gain. `mrr@k`: 1 / rank of the
    first relevant one among the first k, else 0. A query without relevant candidates counts 0; -1 means no candidate.

    Raises ValueError where queries and relevance differ in number, a k is < 1, or a query lists a candidate twice.
    """
    if len(ranking) != len(relevance) or not len(ranking):
        raise ValueError(f"{len(ranking)} rankings for the relevance of {len(relevance)} queries")
    if min(ks) < 1:
        raise ValueError(f"cutoffs must be at least 1, got {list(ks)}")
    ordered = np.sort(ranking, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("a ranking lists a candidate twice")
    deepest = max(ks)
    gains = np.zeros((len(ranking), deepest))
    ideal = np.zeros_like(gains)
    counts = np.zeros(len(ranking))
    for i, (row, grades) in enumerate(zip(ranking[:, :deepest].tolist(), relevance, strict=True)):
        gains[i, : len(row)] = [max(grades.get(j, 0), 0) if j >= 0 else 0 for j in row]
        positive = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
        counts[i] = len(positive)
        ideal[i, : len(positive)] = positive[:deepest]
    discount = 1 / np.log2(np.arange(2, deepest + 2))
    ranks = np.arange(1, deepest + 1)
    metrics = {}
    for k in ks:
        right = gains[:, :k] > 0
        best = (ideal[:, :k] * discount[:k]).sum(axis=1)
        gained = (gains[:, :k] * discount[:k]).sum(axis=1)
        metrics[f"hit@{k}"] = right.any(axis=1).mean()
        metrics[f"recall@{k}"] = (right.sum(axis=1) / np.maximum(counts, 1)).mean()
        metrics[f"ndcg@{k}"] = np.divide(gained, best, out=np.zeros_like(best), where=best > 0).mean()
        metrics[f"mrr@{k}"] = (right / ranks[:k]).max(axis=1).mean()
    return {name: float(value) for name, value in metrics.items()}


def accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Compute the share of equal entries of two integer vectors [q]. Raises ValueError for unequal shapes."""
    if predicted.shape != truth.shape:
        raise ValueError(f"predictions {predicted.shape} for labels {truth.shape}")
    return float((predicted == truth).mean())


def chance_hit(counts: np.ndarray, n: np.ndarray | int, k: int) -> float:
    """Compute the exact hit@k of a random ranking: the mean over queries with `counts` i[q] relevant among `n`, i[q].

    Raises ValueError where a query has more relevant candidates than candidates.
    """
    counts, n = np.broadcast_arrays(np.asarray(counts, np.float64), np.asarray(n, np.float64))
    if (counts > n).any() or (counts < 0).any():
        raise ValueError("a query has more relevant candidates than there are candidates")
    miss = np.ones(counts.shape)
    for i in range(k):  # draws without replacement; a draw past the last candidate cannot miss or hit
        miss *= np.where(i < n, np.maximum(n - counts - i, 0) / np.maximum(n - i, 1), 1)
    return float((1 - miss).mean())


def wilson_interval(mean: float, count: float, z: float = 1.96) -> tuple[float, float]:
    """Compute the 95 % interval of a mean over `count` values in 0..1 (Wilson 1927).

    It is that of hits, which are 0 or 1. Other values in 0..1 vary less: for nDCG and MRR it is wider than needed.
    Raises ValueError for a mean outside 0..1 or a count below 1.
    """
    if not 0 <= mean <= 1 or count < 1:
        raise ValueError(f"the interval of a mean in 0..1 over at least one value, not {mean} over {count}")
    center = (mean + z**2 / (2 * count)) / (1 + z**2 / count)
    margin = z / (1 + z**2 / count) * np.sqrt(mean * (1 - mean) / count + (z / (2 * count)) ** 2)
    return max(float(center - margin), 0.0), min(float(center + margin), 1.0)
