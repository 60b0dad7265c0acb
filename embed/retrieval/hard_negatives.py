"""Hard negatives: candidates that score high for a query and are not relevant to it, as far as scores can tell.

A candidate near the positive's own score is probably relevant too, so it is left out: positive-aware mining with a
ratio of the positive's score, as in NV-Retriever (arXiv 2407.15831, TopK-PercPos).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from embed.retrieval.corpus_embeddings import PairTable
from embed.retrieval.search import top_k

NONE = -1  # no candidate
NEGATIVE, KNOWN_POSITIVE, FALSE_NEGATIVE, UNUSED = range(4)  # a candidate's status
ROWS = 256  # records scored together
RRF_K = 60  # reciprocal rank fusion, Cormack et al. 2009


@dataclasses.dataclass(frozen=True)
class MiningRule:
    """Which of a query's best candidates become its hard negatives."""

    count: int  # negatives per query, at most
    depth: int  # candidates considered
    positive_ratio: float = 0.95  # of the positive's score; a candidate above counts as a false negative


def fuse(rankings: list[np.ndarray], depth: int) -> np.ndarray:
    """Fuse rankings of candidates i32[q,k] by several scorers, NONE where there are fewer, into one: i32[q,depth].

    Order is by the sum of 1 / (60 + rank); ties keep the order of the first scorer.
    """
    out = np.full((len(rankings[0]), depth), NONE, np.int32)
    for row, query_rankings in enumerate(zip(*rankings, strict=True)):
        fused: dict[int, float] = {}
        for ranking in query_rankings:
            for rank, candidate in enumerate(ranking.tolist(), start=1):
                if candidate != NONE:
                    fused[candidate] = fused.get(candidate, 0.0) + 1 / (RRF_K + rank)
        best = sorted(fused, key=lambda candidate: -fused[candidate])[:depth]
        out[row, : len(best)] = best
    return out


def select(
    ranking: np.ndarray, scores: np.ndarray, positive: np.ndarray, is_relevant: np.ndarray, rule: MiningRule
) -> tuple[np.ndarray, np.ndarray]:
    """Select hard negatives: (i32[q,count], best first, NONE where there are fewer; status i8[q,k] of each candidate).

    From candidates i32[q,k], best first; their scores by each of n scorers, f32[n,q,k], and the positive's, f32[n,q];
    and `is_relevant` bool[q,k], the known positives. A candidate that any scorer puts near the positive is left out.
    """
    limit = positive - (1 - rule.positive_ratio) * np.abs(positive)
    status = np.full(ranking.shape, UNUSED, np.int8)
    status[(scores > limit[..., None]).any(axis=0)] = FALSE_NEGATIVE
    status[is_relevant | (ranking == NONE)] = KNOWN_POSITIVE
    is_free = status == UNUSED
    is_taken = is_free & (np.cumsum(is_free, axis=1) <= rule.count)
    status[is_taken] = NEGATIVE
    order = np.argsort(~is_taken, axis=1, kind="stable")[:, : rule.count]
    ordered = np.take_along_axis(ranking, order, axis=1)
    negatives = np.where(np.take_along_axis(is_taken, order, axis=1), ordered, NONE)
    missing = rule.count - negatives.shape[1]
    return np.pad(negatives, ((0, 0), (0, missing)), constant_values=NONE), status


@dataclasses.dataclass(frozen=True)
class Mined:
    """The result of mining, one row per record of a table."""

    negatives: np.ndarray  # i32[r,count], indices in the corpus, NONE where there are fewer
    ranking: np.ndarray  # i32[r,k], the candidates considered, best first
    status: np.ndarray  # i8[r,k]
    scores: np.ndarray  # f32[r,k], the first scorer's
    positive: np.ndarray  # f32[r], the positive's score by the first scorer


def sample_negatives(table: PairTable, rule: MiningRule, seed: int) -> np.ndarray:
    """Sample random negatives as a baseline: i32[r,count], any candidate but the record's positive."""
    rng = np.random.default_rng(seed)
    positive = table.corpus.index_of(table.positive_hashes)[:, None]
    sampled = rng.integers(len(table.corpus) - 1, size=(len(positive), rule.count))
    return (sampled + (sampled >= positive)).astype(np.int32)


def mine(
    table: PairTable, scorers: Sequence[tuple[np.ndarray, np.ndarray]], is_valid: np.ndarray, rule: MiningRule
) -> Mined:
    """Mine the hard negatives of every record.

    Each scorer is (embeddings of `table.queries` f32[m,e], of `table.corpus` f32[n,e]); their dimensions may differ.
    Left out are candidates that equal the query, are a positive of an equal query, have the record's label, have no
    embedding (`is_valid` bool[n]), or score near the positive.
    """
    rankings = [top_k(queries, corpus, rule.depth)[1] for queries, corpus in scorers]
    query = table.queries.index_of(table.query_hashes)
    positive = table.corpus.index_of(table.positive_hashes)
    ranking = fuse(rankings, rule.depth)[query] if len(rankings) > 1 else rankings[0][query]
    scores = np.stack([_score(queries, corpus, query, ranking) for queries, corpus in scorers])
    positive_scores = np.stack([_score(queries, corpus, query, positive[:, None])[:, 0] for queries, corpus in scorers])
    n = len(table.corpus)
    is_relevant = np.isin(query[:, None] * n + ranking, query * n + positive)
    is_relevant |= table.corpus.hashes[ranking] == table.query_hashes[:, None]
    labels = np.zeros(n, np.uint64)
    labels[positive] = table.label_hashes
    is_relevant |= (labels[ranking] == table.label_hashes[:, None]) & (table.label_hashes[:, None] != 0)
    negatives, status = select(ranking, scores, positive_scores, is_relevant | ~is_valid[ranking], rule)
    return Mined(negatives, ranking, status, scores[0], positive_scores[0])


def _score(queries: np.ndarray, corpus: np.ndarray, query: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Dot products f32[r,k] of queries with indices i64[r] and their candidates i32[r,k]."""
    out = np.empty(candidates.shape, np.float32)
    for i in range(0, len(query), ROWS):
        rows = slice(i, i + ROWS)
        out[rows] = np.einsum("re,rke->rk", queries[query[rows]], corpus[candidates[rows]])
    return out
