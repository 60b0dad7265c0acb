"""Hard negatives: candidates that score high for a query and do not answer it, as far as scores can tell.

A candidate near the positive's own score is probably another right answer, so it is left out: positive-aware mining
with a share of the positive's score, as NV-Retriever has it (arXiv 2407.15831, TopK-PercPos).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from embed.retrieval.corpus_embeddings import PairTable
from embed.retrieval.search import top_k

NONE = -1  # no candidate
NEGATIVE, KNOWN_POSITIVE, FALSE_NEGATIVE, UNUSED = range(4)  # what a candidate was taken for
ROWS = 256  # records that are scored together
RRF_K = 60  # reciprocal rank fusion, Cormack et al. 2009


@dataclasses.dataclass(frozen=True)
class MiningRule:
    """Which of a query's best candidates are its hard negatives."""

    count: int  # negatives of a query at most
    depth: int  # candidates that are looked at
    share: float = 0.95  # of the positive's score; a candidate above is taken for another right answer


def fuse(rankings: list[np.ndarray], depth: int) -> np.ndarray:
    """Rankings of candidates i32[q,k] by several scorers, NONE where there is none -> one, i32[q,depth], by the sum of
    1 / (60 + rank); of equals those first that the first scorer had first."""
    out = np.full((len(rankings[0]), depth), NONE, np.int32)
    for row, several in enumerate(zip(*rankings, strict=True)):
        found: dict[int, float] = {}
        for ranking in several:
            for rank, candidate in enumerate(ranking.tolist(), start=1):
                if candidate != NONE:
                    found[candidate] = found.get(candidate, 0.0) + 1 / (RRF_K + rank)
        best = sorted(found, key=lambda candidate: -found[candidate])[:depth]
        out[row, : len(best)] = best
    return out


def select(
    ranking: np.ndarray, scores: np.ndarray, positive: np.ndarray, answers: np.ndarray, rule: MiningRule
) -> tuple[np.ndarray, np.ndarray]:
    """(the hard negatives of each query, i32[q,count], best first, NONE where there are fewer; i8[q,k] what each
    candidate was taken for).

    From candidates i32[q,k], best first; what each of n scorers gives the query with them, f32[n,q,k], and with its
    positive, f32[n,q]; and `answers` bool[q,k], which are right by what is known. One that any scorer finds close to
    the positive is left out.
    """
    limit = positive - (1 - rule.share) * np.abs(positive)
    taken_for = np.full(ranking.shape, UNUSED, np.int8)
    taken_for[(scores > limit[..., None]).any(axis=0)] = FALSE_NEGATIVE
    taken_for[answers | (ranking == NONE)] = KNOWN_POSITIVE
    free = taken_for == UNUSED
    taken = free & (np.cumsum(free, axis=1) <= rule.count)
    taken_for[taken] = NEGATIVE
    order = np.argsort(~taken, axis=1, kind="stable")[:, : rule.count]
    found = np.where(np.take_along_axis(taken, order, axis=1), np.take_along_axis(ranking, order, axis=1), NONE)
    return np.pad(found, ((0, 0), (0, rule.count - found.shape[1])), constant_values=NONE), taken_for


@dataclasses.dataclass(frozen=True)
class Mined:
    """What was found for the records of a scan, a row each."""

    negatives: np.ndarray  # i32[r,count], places in the corpus, NONE where there are fewer
    ranking: np.ndarray  # i32[r,k], the candidates that were looked at, best first
    taken_for: np.ndarray  # i8[r,k]
    scores: np.ndarray  # f32[r,k], the first scorer's
    positive: np.ndarray  # f32[r]


def sample_negatives(found: PairTable, rule: MiningRule, seed: int) -> np.ndarray:
    """Negatives to compare with: of each record i32[r,count], any of the corpus but its own positive."""
    rng, positive = np.random.default_rng(seed), found.corpus.places(found.positives)[:, None]
    drawn = rng.integers(len(found.corpus) - 1, size=(len(positive), rule.count))
    return (drawn + (drawn >= positive)).astype(np.int32)


def mine(
    found: PairTable, scorers: Sequence[tuple[np.ndarray, np.ndarray]], known: np.ndarray, rule: MiningRule
) -> Mined:
    """The hard negatives of every record, by one scorer or several: each (vectors of `found.asked` f32[m,e], of
    `found.corpus` f32[n,e]), whose widths may differ.

    Left out are candidates that are the query itself, a positive of an equal query, of the record's own label, without
    a vector (`known` bool[n]), or close to the positive.
    """
    rankings = [top_k(asked, corpus, rule.depth)[1] for asked, corpus in scorers]
    query, positive = found.asked.places(found.queries), found.corpus.places(found.positives)
    ranking = fuse(rankings, rule.depth)[query] if len(rankings) > 1 else rankings[0][query]
    scores = np.stack([_scores(asked, corpus, query, ranking) for asked, corpus in scorers])
    own = np.stack([_scores(asked, corpus, query, positive[:, None])[:, 0] for asked, corpus in scorers])
    n = len(found.corpus)
    answers = np.isin(query[:, None] * n + ranking, query * n + positive)
    answers |= found.corpus.hashes[ranking] == found.queries[:, None]
    labels = np.zeros(n, np.uint64)
    labels[positive] = found.labels
    answers |= (labels[ranking] == found.labels[:, None]) & (found.labels[:, None] != 0)
    negatives, taken_for = select(ranking, scores, own, answers | ~known[ranking], rule)
    return Mined(negatives, ranking, taken_for, scores[0], own[0])


def _scores(asked: np.ndarray, corpus: np.ndarray, query: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Of queries i64[r] with candidates i32[r,k]: f32[r,k]."""
    out = np.empty(places.shape, np.float32)
    for i in range(0, len(query), ROWS):
        own = slice(i, i + ROWS)
        out[own] = np.einsum("re,rke->rk", asked[query[own]], corpus[places[own]])
    return out
