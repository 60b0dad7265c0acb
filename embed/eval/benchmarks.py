"""A benchmark: queries, candidates, and which candidates answer which query; made of pairs or read from a folder.

Contents are identified by hash, so a text that occurs in many pairs is one candidate, with all its right answers.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from embed.data.discover import QRELS, DatasetError
from embed.data.modalities import Content, modality_of
from embed.data.records import Record, RecordError, content_hash, parse_item
from embed.data.sources import open_split, read_judgements, read_records
from embed.distributed import storage
from embed.eval.metrics import chance_hit, evaluate_ranking
from embed.retrieval.search import top_k, truncate_dim

KS = (1, 10)  # where rankings are cut
Results = Mapping[str, Mapping[int, Mapping[str, float]]]  # benchmark -> width -> metric -> value


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Raises ValueError for a query that has no relevant candidate, or one that does not exist."""

    name: str
    kind: str  # what it is grouped under: text, code, image, ...
    queries: tuple[Content, ...] = dataclasses.field(repr=False)
    corpus: tuple[Content, ...] = dataclasses.field(repr=False)
    relevance: tuple[dict[int, int], ...] = dataclasses.field(repr=False)  # candidate -> grade >= 1, for every query
    # What errors call the queries and the candidates: "query x1 (record 3)"; by number where these are empty.
    query_names: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)
    corpus_names: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)

    def __post_init__(self):
        if not self.queries or len(self.queries) != len(self.relevance):
            raise ValueError(f"{self.name}: {len(self.queries)} queries, relevance of {len(self.relevance)}")
        for i, grades in enumerate(self.relevance):
            if not grades or min(grades.values()) < 1 or min(grades) < 0 or max(grades) >= len(self.corpus):
                raise ValueError(f"{self.name}: query {i} needs graded candidates in 0..{len(self.corpus) - 1}")

    @functools.cached_property
    def own(self) -> np.ndarray:
        """i32[q]: the candidate that is the query itself and does not answer it, else -1.

        Where both sides are of a kind (translations both ways, code to code) a query may stand in the corpus too: it
        would be its own nearest neighbour, and the better the encoder, the worse the score.
        """
        places = {_key(content): j for j, content in enumerate(self.corpus)}
        found = [places.get(_key(query), -1) for query in self.queries]
        return np.array([-1 if j in grades else j for j, grades in zip(found, self.relevance, strict=True)], np.int32)

    def name_query(self, i: int) -> str:
        """What an error says of query i: dataset and id."""
        return f"dataset {dataset_of(self.name)}, {self.query_names[i] if self.query_names else f'query {i}'}"

    def name_candidate(self, i: int) -> str:
        """What an error says of candidate i: dataset and id."""
        return f"dataset {dataset_of(self.name)}, {self.corpus_names[i] if self.corpus_names else f'candidate {i}'}"

    def chance(self, k: int) -> float:
        """Exact hit@k of a random ranking."""
        return chance_hit(np.array([len(r) for r in self.relevance]), len(self.corpus) - (self.own >= 0), k)


def dataset_of(name: str) -> str:
    """The dataset of a benchmark by the benchmark's name, `DATASET: query→target` or `DATASET`."""
    return name.partition(":")[0]


def _key(content: Content) -> bytes:
    return content_hash(content).tobytes()


def from_pairs(
    name: str,
    records: Iterable[Record],
    kind: str | None = None,
    sides: tuple[str, str] = ("query", "target"),
    negatives: bool = True,
) -> tuple[Benchmark, Benchmark]:
    """Pairs -> two benchmarks, `name: query→target` and `name: target→query`, or the words of `sides` instead.

    Forward, the candidates are the distinct positives and, with `negatives`, the distinct hard negatives. Backward,
    they are the distinct queries. A candidate is relevant (grade 1) for a query if some record pairs contents equal to
    theirs. `kind` is found from the contents where it is not given. Raises DatasetError where there are no records.
    """
    queries: dict[bytes, Content] = {}
    targets: dict[bytes, Content] = {}
    names: dict[bytes, str] = {}  # where each content is first
    pairs: dict[tuple[bytes, bytes], None] = {}  # in order, once each
    for number, record in enumerate(records, start=1):
        place = f"of record {number}, id {record.id}"
        query, positive = _key(record.query), _key(record.positive)
        queries.setdefault(query, record.query)
        names.setdefault(query, f"query {place}")
        targets.setdefault(positive, record.positive)
        names.setdefault(positive, f"positive {place}")
        pairs[query, positive] = None
        for negative in record.negatives if negatives else ():
            targets.setdefault(_key(negative), negative)
            names.setdefault(_key(negative), f"negative {place}")
    if not pairs:
        raise DatasetError(f"{name}: no records, so no benchmark")
    query_at, target_at = ({key: i for i, key in enumerate(side)} for side in (queries, targets))
    forward: dict[int, dict[int, int]] = collections.defaultdict(dict)
    backward: dict[int, dict[int, int]] = collections.defaultdict(dict)
    for query, target in pairs:
        forward[query_at[query]][target_at[target]] = 1
        backward[target_at[target]][query_at[query]] = 1
    everything, candidates = tuple(queries.values()), tuple(targets.values())
    query_names, target_names = (tuple(names[key] for key in side) for side in (queries, targets))
    answered = sorted(backward)  # a candidate that is nobody's positive is no query
    left, right = sides
    kind = kind or _kind(everything + candidates)
    there = Benchmark(
        f"{name}: {left}→{right}",
        kind,
        everything,
        candidates,
        tuple(forward[i] for i in sorted(forward)),
        query_names,
        target_names,
    )
    back = Benchmark(
        f"{name}: {right}→{left}",
        kind,
        tuple(candidates[j] for j in answered),
        everything,
        tuple(backward[j] for j in answered),
        tuple(target_names[j] for j in answered),
        query_names,
    )
    return there, back


def _kind(contents: Iterable[Content]) -> str:
    """The modality that is not text; `interleaved` where a content mixes some; `text` where all is text."""
    names = [{modality_of(part).name for part in content} for content in contents]
    if any(len(name) > 1 for name in names):
        return "interleaved"
    return next(iter(sorted(set().union(*names) - {"text"})), "text")


def from_folder(folder: str | os.PathLike, kind: str | None = None, name: str | None = None) -> Benchmark:
    """Reads the splits `corpus` and `queries`, and qrels.tsv (see `sources.qrels`).

    Queries for which no line of qrels.tsv names an answer are left out, as trec_eval does; 0 is "judged, not relevant".
    Lines about a query or candidate that is not there are counted in the log.
    `kind` is found from the contents where it is not given.
    Raises RecordError naming file and line, and OSError where a file is missing.
    """
    folder = storage.path(folder)
    corpus, queries = (_contents(folder, name) for name in ("corpus", "queries"))
    place = {key: j for j, key in enumerate(corpus)}
    relevance: dict[str, dict[int, int]] = collections.defaultdict(dict)
    for query, candidate, grade in read_judgements(folder / QRELS, queries, place):
        if grade > 0:
            relevance[query][place[candidate]] = grade
    if not relevance:
        raise RecordError(f"{folder / QRELS}: no query has a relevant candidate")
    kept = [key for key in queries if key in relevance]
    return Benchmark(
        name or os.path.basename(storage.absolute(folder)),
        kind or _kind([*queries.values(), *corpus.values()]),
        tuple(queries[key] for key in kept),
        tuple(corpus.values()),
        tuple(relevance[key] for key in kept),
        tuple(f"query {key}" for key in kept),
        tuple(f"candidate {key}" for key in corpus),
    )


def _contents(folder: storage.Path, name: str) -> dict[str, Content]:
    found: dict[str, Content] = {}
    for number, record in enumerate(read_records(open_split(folder, name, parse_item)), start=1):
        if record.id in found:
            raise RecordError(f"{folder / name}, record {number}: id {record.id!r} occurs twice")
        found[record.id] = record.query
    return found


def rank(
    benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray, k: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """(scores f32[q,k'], candidates i32[q,k']) at a Matryoshka width, best first, k' = min(k, n).

    A query that stands in the corpus too is not among its own results (see `Benchmark.own`): -1 with score -inf where
    that leaves fewer than k'. Raises ValueError where vectors f32[q,e], f32[n,e] do not fit the benchmark.
    """
    if len(queries) != len(benchmark.queries) or len(corpus) != len(benchmark.corpus):
        raise ValueError(
            f"{benchmark.name}: {len(queries)} query and {len(corpus)} corpus vectors for "
            f"{len(benchmark.queries)} queries and {len(benchmark.corpus)} candidates"
        )
    scores, found = top_k(truncate_dim(queries, width), truncate_dim(corpus, width), k + 1)
    itself = found == benchmark.own[:, None]
    order = np.argsort(itself, axis=1, kind="stable")[:, : min(k, len(corpus))]  # itself last, the rest in order
    scores, found = np.where(itself, -np.inf, scores), np.where(itself, -1, found)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(found, order, axis=1)


def score(
    benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray, widths: Sequence[int], ks: Sequence[int] = KS
) -> dict[int, dict[str, float]]:
    """Metrics of `metrics.evaluate_ranking` at every Matryoshka width, of query vectors f32[q,e] and corpus f32[n,e].

    Beside them `chance@k` (exact hit@k at random), `queries` and `candidates`. Raises ValueError as `rank` does.
    """
    size = {f"chance@{k}": benchmark.chance(k) for k in ks}
    size |= {"queries": float(len(benchmark.queries)), "candidates": float(len(benchmark.corpus))}
    found: dict[int, dict[str, float]] = {}
    for width in widths:
        _, ranking = rank(benchmark, queries, corpus, max(ks), width)
        found[width] = evaluate_ranking(ranking, benchmark.relevance, ks) | size
    return found
