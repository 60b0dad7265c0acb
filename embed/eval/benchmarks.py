"""A benchmark: queries, candidates, and which candidates answer which query; made of pairs or read from a folder.

Contents are identified by hash, so a text that occurs in many pairs is one candidate, relevant to all their queries.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from embed.data.discover import DatasetError
from embed.data.jsonl import parse_item
from embed.data.modalities import Content, modality_of
from embed.data.qrels import QRELS, read_judgments
from embed.data.records import Record, RecordError, content_hash
from embed.data.sources import open_split, read_records
from embed.distributed import storage
from embed.eval.metrics import chance_hit, evaluate_ranking
from embed.model.matryoshka import truncate_dim
from embed.retrieval.search import top_k

KS = (1, 10)  # cutoffs of rankings
LANGUAGE = "ndcg@10/"  # before a language, in the names of metrics
# The metric of a table: of retrieval, of graded pairs (embed/eval/similarity.py).
MAIN_METRICS = {"ndcg@10": "nDCG@10", "spearman": "Spearman"}
Results = Mapping[str, Mapping[int, Mapping[str, float]]]  # benchmark -> width -> metric -> value


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Queries, candidates and their relevance.

    Raises ValueError for a query without a relevant candidate, or with one that does not exist.
    """

    name: str  # `DATASET: query→target` or `DATASET`
    group: str  # heading in tables: text, code, image, ...
    queries: tuple[Content, ...] = dataclasses.field(repr=False)
    corpus: tuple[Content, ...] = dataclasses.field(repr=False)
    relevance: tuple[dict[int, int], ...] = dataclasses.field(repr=False)  # per query: candidate -> grade >= 1
    # Names for error messages: "query x1 (record 3)"; an empty tuple means names by index.
    query_names: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)
    corpus_names: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)
    # Of the queries, to score each language apart.
    languages: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)

    def __post_init__(self):
        if not self.queries or len(self.queries) != len(self.relevance):
            raise ValueError(f"{self.name}: {len(self.queries)} queries, relevance of {len(self.relevance)}")
        for i, grades in enumerate(self.relevance):
            if not grades or min(grades.values()) < 1 or min(grades) < 0 or max(grades) >= len(self.corpus):
                raise ValueError(f"{self.name}: query {i} needs graded candidates in 0..{len(self.corpus) - 1}")

    @functools.cached_property
    def self_index(self) -> np.ndarray:
        """i32[q]: the candidate that equals the query and is not relevant to it, else -1.

        Where both sides are of one modality (translations in both directions, code to code), a query may also be a
        candidate. It would be its own nearest neighbor: the better the encoder, the worse the score.
        """
        index_of = {_hash(content): j for j, content in enumerate(self.corpus)}
        matches = [index_of.get(_hash(query), -1) for query in self.queries]
        pairs = zip(matches, self.relevance, strict=True)
        return np.array([-1 if j in grades else j for j, grades in pairs], np.int32)

    def name_query(self, i: int) -> str:
        """Dataset and id of query i, for error messages."""
        return f"dataset {dataset_of(self.name)}, {self.query_names[i] if self.query_names else f'query {i}'}"

    def name_candidate(self, i: int) -> str:
        """Dataset and id of candidate i, for error messages."""
        return f"dataset {dataset_of(self.name)}, {self.corpus_names[i] if self.corpus_names else f'candidate {i}'}"

    def chance(self, k: int) -> float:
        """Exact hit@k of a random ranking."""
        num_candidates = len(self.corpus) - (self.self_index >= 0)
        return chance_hit(np.array([len(grades) for grades in self.relevance]), num_candidates, k)


def dataset_of(name: str) -> str:
    """The dataset in a benchmark's name, `DATASET: query→target` or `DATASET`."""
    return name.partition(":")[0]


def select_metric(results: Results, metric: str) -> dict[str, float]:
    """Select a metric at full width, of the benchmarks that have it."""
    rows = {name: by_width[max(by_width)] for name, by_width in results.items() if by_width}
    return {name: row[metric] for name, row in rows.items() if metric in row}


def _hash(content: Content) -> bytes:
    return content_hash(content).tobytes()


def from_pairs(
    name: str,
    records: Iterable[Record],
    group: str | None = None,
    sides: tuple[str, str] = ("query", "target"),
    negatives: bool = True,
) -> tuple[Benchmark, Benchmark]:
    """Make two benchmarks from pairs: `name: query→target` and `name: target→query`, or the words of `sides` instead.

    The candidates of the forward benchmark are the distinct positives and, with `negatives`, the distinct hard
    negatives; those of the reverse one are the distinct queries. A candidate is relevant (grade 1) to a query if a
    record pairs contents equal to theirs. `group` defaults to the modality of the contents.

    Raises DatasetError where there are no records.
    """
    queries: dict[bytes, Content] = {}
    targets: dict[bytes, Content] = {}
    names: dict[bytes, str] = {}  # by first occurrence
    pairs: dict[tuple[bytes, bytes], None] = {}  # distinct, in order
    for number, record in enumerate(records, start=1):
        source = f"of record {number}, id {record.id}"
        query = _hash(record.query)
        positive = _hash(record.positive)
        queries.setdefault(query, record.query)
        names.setdefault(query, f"query {source}")
        targets.setdefault(positive, record.positive)
        names.setdefault(positive, f"positive {source}")
        pairs[query, positive] = None
        for negative in record.negatives if negatives else ():
            targets.setdefault(_hash(negative), negative)
            names.setdefault(_hash(negative), f"negative {source}")
    if not pairs:
        raise DatasetError(f"{name}: no records, so no benchmark")
    query_index = {key: i for i, key in enumerate(queries)}
    target_index = {key: i for i, key in enumerate(targets)}
    target_grades: dict[int, dict[int, int]] = collections.defaultdict(dict)  # per query
    query_grades: dict[int, dict[int, int]] = collections.defaultdict(dict)  # per target
    for query, target in pairs:
        target_grades[query_index[query]][target_index[target]] = 1
        query_grades[target_index[target]][query_index[query]] = 1
    query_contents = tuple(queries.values())
    target_contents = tuple(targets.values())
    query_names = tuple(names[key] for key in queries)
    target_names = tuple(names[key] for key in targets)
    positives = sorted(query_grades)  # hard negatives are not queries of the reverse direction
    left, right = sides
    group = group or _infer_group(query_contents + target_contents)
    forward = Benchmark(
        f"{name}: {left}→{right}",
        group,
        query_contents,
        target_contents,
        tuple(target_grades[i] for i in sorted(target_grades)),
        query_names,
        target_names,
    )
    reverse = Benchmark(
        f"{name}: {right}→{left}",
        group,
        tuple(target_contents[j] for j in positives),
        query_contents,
        tuple(query_grades[j] for j in positives),
        tuple(target_names[j] for j in positives),
        query_names,
    )
    return forward, reverse


def _infer_group(contents: Iterable[Content]) -> str:
    """The one modality beside text; `interleaved` where a content mixes several; `text` where all is text."""
    names = [{modality_of(part).name for part in content} for content in contents]
    if any(len(name) > 1 for name in names):
        return "interleaved"
    return next(iter(sorted(set().union(*names) - {"text"})), "text")


def from_folder(folder: str | os.PathLike, group: str | None = None, name: str | None = None) -> Benchmark:
    """Read a benchmark from the splits `corpus` and `queries`, and qrels.tsv (see `sources.read_judgments`).

    As in trec_eval, queries without a relevant candidate in qrels.tsv are left out; grade 0 means judged, not relevant.
    Lines about a query or candidate that does not exist are counted in the log. `group` defaults to the modality of
    the contents.

    Raises RecordError naming file and line, OSError where a file is missing.
    """
    folder = storage.path(folder)
    corpus, _ = _read_contents(folder, "corpus")
    queries, languages = _read_contents(folder, "queries")
    index_of = {key: j for j, key in enumerate(corpus)}
    relevance: dict[str, dict[int, int]] = collections.defaultdict(dict)
    for query, candidate, grade in read_judgments(folder / QRELS, queries, index_of):
        if grade > 0:
            relevance[query][index_of[candidate]] = grade
    if not relevance:
        raise RecordError(f"{folder / QRELS}: no query has a relevant candidate")
    kept = [key for key in queries if key in relevance]
    return Benchmark(
        name or os.path.basename(storage.absolute(folder)),
        group or _infer_group([*queries.values(), *corpus.values()]),
        tuple(queries[key] for key in kept),
        tuple(corpus.values()),
        tuple(relevance[key] for key in kept),
        tuple(f"query {key}" for key in kept),
        tuple(f"candidate {key}" for key in corpus),
        tuple(languages[key] for key in kept),
    )


def _read_contents(folder: storage.Path, split: str) -> tuple[dict[str, Content], dict[str, str]]:
    """The contents of a split and their languages, by id."""
    contents: dict[str, Content] = {}
    languages: dict[str, str] = {}
    for number, record in enumerate(read_records(open_split(folder, split, parse_item)), start=1):
        if record.id in contents:
            raise RecordError(f"{folder / split}, record {number}: id {record.id!r} occurs twice")
        contents[record.id] = record.query
        languages[record.id] = record.lang
    return contents, languages


def rank(
    benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray, k: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the candidates at a Matryoshka width: (scores f32[q,k'], indices i32[q,k']), best first, k' = min(k, n).

    A query that is also a candidate is left out of its own ranking (see `Benchmark.self_index`), which then ends in -1
    with score -inf where fewer than k' remain. Raises ValueError where vectors f32[q,e], f32[n,e] do not fit the
    benchmark.
    """
    if len(queries) != len(benchmark.queries) or len(corpus) != len(benchmark.corpus):
        raise ValueError(
            f"{benchmark.name}: {len(queries)} query and {len(corpus)} corpus vectors for "
            f"{len(benchmark.queries)} queries and {len(benchmark.corpus)} candidates"
        )
    scores, indices = top_k(truncate_dim(queries, width), truncate_dim(corpus, width), k + 1)
    return exclude_self(benchmark, scores, indices, k)


def exclude_self(
    benchmark: Benchmark, scores: np.ndarray, indices: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Leave each query that is also a candidate out of its own ranking: scores f32[q,k+1], indices i32[q,k+1] to k.

    A ranking ends in -1 with score -inf where fewer candidates remain.
    """
    is_self = indices == benchmark.self_index[:, None]
    order = np.argsort(is_self, axis=1, kind="stable")[:, : min(k, len(benchmark.corpus))]  # itself last
    scores = np.where(is_self, -np.inf, scores)
    indices = np.where(is_self, -1, indices)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)


def score(
    benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray, widths: Sequence[int], ks: Sequence[int] = KS
) -> dict[int, dict[str, float]]:
    """Score query vectors f32[q,e] and corpus vectors f32[n,e] at every Matryoshka width: width -> metric -> value.

    Metrics are those of `metrics.evaluate_ranking`, `chance@k` (exact hit@k at random), `queries` and `candidates`;
    where the queries are in several languages, also `ndcg@10/LANGUAGE` and `queries/LANGUAGE`.
    Raises ValueError as `rank` does.
    """
    results: dict[int, dict[str, float]] = {}
    for width in widths:
        _, ranking = rank(benchmark, queries, corpus, max(ks), width)
        results[width] = score_ranking(benchmark, ranking, ks)
    return results


def score_ranking(benchmark: Benchmark, ranking: np.ndarray, ks: Sequence[int] = KS) -> dict[str, float]:
    """Score a ranking i32[q,k], best first, -1 for no candidate, by the metrics of `score`."""
    metrics = evaluate_ranking(ranking, benchmark.relevance, ks)
    metrics |= {f"chance@{k}": benchmark.chance(k) for k in ks}
    metrics |= {"queries": float(len(benchmark.queries)), "candidates": float(len(benchmark.corpus))}
    names = sorted(set(benchmark.languages))
    for name in names if len(names) > 1 else ():
        rows = [i for i, language in enumerate(benchmark.languages) if language == name]
        relevance = [benchmark.relevance[i] for i in rows]
        metrics[LANGUAGE + (name or "none")] = evaluate_ranking(ranking[rows], relevance, (10,))["ndcg@10"]
        metrics[f"queries/{name or 'none'}"] = float(len(rows))
    return metrics
