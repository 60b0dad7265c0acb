"""Graded similarity of pairs: Spearman's correlation of cosines with the scores that people gave.

As mteb scores its STS tasks: per language, then the mean over the languages. tests/eval/test_mteb.py compares both.
"""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from embed.data.discover import SEPARATORS
from embed.data.modalities import Content
from embed.data.records import RecordError, read_score
from embed.data.sources import SIMILARITY_SPLITS, open_split, read_records
from embed.distributed import storage
from embed.eval.benchmarks import dataset_of
from embed.model.matryoshka import truncate_dim

LANGUAGE = "spearman/"  # before a language, in the names of metrics


@dataclasses.dataclass(frozen=True)
class SimilarityBenchmark:
    """Pairs of contents and the score of each."""

    name: str  # `DATASET: similarity`
    first: tuple[Content, ...] = dataclasses.field(repr=False)
    second: tuple[Content, ...] = dataclasses.field(repr=False)
    scores: np.ndarray = dataclasses.field(repr=False, compare=False)  # f64[n]
    languages: tuple[str, ...] = dataclasses.field(repr=False)  # of the pairs; "" where a record has none
    ids: tuple[str, ...] = dataclasses.field(repr=False)

    def __post_init__(self):
        if not self.ids:
            raise RecordError(f"{self.name}: no graded pairs, so no benchmark")
        for language, rows in self.by_language().items():
            if len(np.unique(self.scores[rows])) < 2:
                pairs = f"{len(rows)} pairs of language {language!r}" if language else f"{len(rows)} pairs"
                raise RecordError(f"{self.name}: {pairs} with equal scores: a correlation needs two scores")

    def by_language(self) -> dict[str, np.ndarray]:
        """Map each language, in order of first occurrence, to its pairs i64[k]."""
        names = np.array(self.languages)
        return {name: np.flatnonzero(names == name) for name in dict.fromkeys(self.languages)}

    def name_pair(self, i: int) -> str:
        """Dataset and id of pair i, for error messages."""
        return f"dataset {dataset_of(self.name)}, pair {i + 1}, id {self.ids[i]}"


def from_folder(folder: storage.Path, split: str) -> SimilarityBenchmark:
    """Read the graded pairs of a split: `sts` for "test", `sts_dev` for "dev", `sts_train` for "train".

    Raises RecordError for a record that cannot be read, a language with a separator of names in it, and a language
    whose pairs all have one score.
    """
    name = SIMILARITY_SPLITS[split]
    records = list(read_records(open_split(folder, name)))
    for number, record in enumerate(records, start=1):
        if any(separator in record.lang for separator in SEPARATORS):
            raise RecordError(f"{folder / name}, record {number}: lang {record.lang!r} must not contain {SEPARATORS}")
    return SimilarityBenchmark(
        f"{os.path.basename(storage.absolute(folder))}: similarity",
        tuple(record.query for record in records),
        tuple(record.positive for record in records),
        np.array([read_score(record, f"{folder / name}, record {i}") for i, record in enumerate(records, start=1)]),
        tuple(record.lang for record in records),
        tuple(record.id for record in records),
    )


def spearman(cosines: np.ndarray, scores: np.ndarray) -> float:
    """Correlate the ranks of cosines f[n] and scores f[n], ties averaged; 0 where all cosines are equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        value = float(stats.spearmanr(cosines, scores).statistic)
    return 0.0 if np.isnan(value) else value


def pair_cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the cosine of rows i of two matrices f[n,e] in float64, rounded so that pairs of equal vectors tie."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.round(np.einsum("ne,ne->n", a, b) / np.maximum(norms, np.finfo(np.float64).tiny), 12)


def score_pairs(
    benchmark: SimilarityBenchmark, first: np.ndarray, second: np.ndarray, widths: Sequence[int]
) -> dict[int, dict[str, float]]:
    """Score the vectors f32[n,e] of both sides at every Matryoshka width: width -> metric -> value.

    Metrics are `spearman`, the mean over languages; `pairs`, their number; and where there are several languages
    `spearman/LANGUAGE` and `pairs/LANGUAGE`. Raises ValueError where vectors do not fit the benchmark.
    """
    if len(first) != len(benchmark.first) or len(second) != len(benchmark.second):
        raise ValueError(f"{benchmark.name}: {len(first)} and {len(second)} vectors for {len(benchmark.first)} pairs")
    by_language = benchmark.by_language()
    results = {}
    for width in widths:
        cosines = pair_cosines(truncate_dim(first, width), truncate_dim(second, width))
        values = {name: spearman(cosines[rows], benchmark.scores[rows]) for name, rows in by_language.items()}
        row = {"spearman": float(np.mean(list(values.values()))), "pairs": float(len(cosines))}
        if len(values) > 1:
            for language, value in values.items():
                row[LANGUAGE + (language or "none")] = value
                row[f"pairs/{language or 'none'}"] = float(len(by_language[language]))
        results[width] = row
    return results


def list_rows(row: Mapping[str, float]) -> list[tuple[str, float, str]]:
    """List the rows of a table from the metrics of a width: (label, number of pairs, metric), the mean first."""
    languages = [metric.removeprefix(LANGUAGE) for metric in row if metric.startswith(LANGUAGE)]
    label = f"Spearman, mean of {len(languages)} languages" if languages else "Spearman"
    by_language = [(f"Spearman, {name}", row[f"pairs/{name}"], LANGUAGE + name) for name in languages]
    return [(label, row["pairs"], "spearman"), *by_language]
