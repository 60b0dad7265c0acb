"""Queries with their nearest candidates: taken in even steps, by the largest mistake, or by the clearest success."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from embed.data.modalities import Content
from embed.eval.benchmarks import Benchmark, rank
from embed.eval.suite import even_steps
from embed.model.matryoshka import truncate_dim

TOP = 5
NUM_BEST = 3  # results beside a query that succeeds


@dataclasses.dataclass(frozen=True)
class Result:
    content: Content
    score: float  # cosine
    relevant: bool
    rank: int  # 1 is the best


@dataclasses.dataclass(frozen=True)
class Example:
    """One query with its best five candidates, and the best relevant one where it is not among them."""

    benchmark: str
    query: Content
    results: tuple[Result, ...]


def select_evenly(benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray, count: int) -> list[Example]:
    """Select queries in even steps, whatever their scores, from vectors f32[q,e] and f32[n,e]."""
    return _make_examples(benchmark, queries, corpus, even_steps(len(queries), count))


def select_failures(benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray, count: int) -> list[Example]:
    """Select the queries whose first candidate is wrong and exceeds the best relevant one by the most."""
    scores, ranking = rank(benchmark, queries, corpus, 1, corpus.shape[1])
    margin = scores[:, 0] - _relevant_scores(benchmark, queries, corpus)
    margin[_is_right(benchmark, ranking)] = -np.inf
    worst = [i for i in np.argsort(-margin, kind="stable")[:count].tolist() if margin[i] > 0]
    return _make_examples(benchmark, queries, corpus, worst)


def select_best(benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray) -> list[Example]:
    """Select the query whose first candidate is right and exceeds the second by the most, with its best three.

    Where no query is answered right, the first one is taken.
    """
    scores, ranking = rank(benchmark, queries, corpus, 2, corpus.shape[1])
    margin = np.where(_is_right(benchmark, ranking), scores[:, 0] - scores[:, -1], -1)
    (example,) = _make_examples(benchmark, queries, corpus, [int(margin.argmax())])
    return [dataclasses.replace(example, results=example.results[:NUM_BEST])]


def _is_right(benchmark: Benchmark, ranking: np.ndarray) -> np.ndarray:
    pairs = zip(ranking[:, 0].tolist(), benchmark.relevance, strict=True)
    return np.array([first in grades for first, grades in pairs])


def _relevant_scores(benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    """f64[q]: the cosine of each query's best relevant candidate."""
    queries = truncate_dim(queries, queries.shape[1])
    corpus = truncate_dim(corpus, corpus.shape[1])
    pairs = zip(queries, benchmark.relevance, strict=True)
    return np.array([float((corpus[list(grades)] @ query).max()) for query, grades in pairs])


def _make_examples(
    benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray, indices: Sequence[int]
) -> list[Example]:
    if not indices:
        return []
    selected = dataclasses.replace(
        benchmark,
        queries=tuple(benchmark.queries[i] for i in indices),
        relevance=tuple(benchmark.relevance[i] for i in indices),
    )
    scores, ranking = rank(selected, queries[list(indices)], corpus, len(corpus), corpus.shape[1])
    rows = zip(selected.queries, selected.relevance, scores.tolist(), ranking.tolist(), strict=True)
    examples = []
    for query, grades, values, order in rows:
        ranked = [
            Result(benchmark.corpus[j], value, j in grades, place)
            for place, (j, value) in enumerate(zip(order, values, strict=True), start=1)
            if j >= 0
        ]
        examples.append(Example(benchmark.name, query, (*ranked[:TOP], *_first_relevant_below(ranked))))
    return examples


def _first_relevant_below(ranked: Sequence[Result]) -> Iterable[Result]:
    """The best relevant result where it is not among the first five."""
    first = next((result for result in ranked if result.relevant), None)
    return [first] if first is not None and first.rank > TOP else []
