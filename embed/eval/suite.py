"""The built-in suite: held-out items of the toy corpora, searched in both directions at every Matryoshka width.

Every query ranks all candidates of its split by exact search. To add a benchmark, add a line to SUITE for its folder,
which needs the splits `dev` and `test`; folders elsewhere are scored without one (`load_datasets`).
"""

import functools
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from embed.data import prompts
from embed.data.discover import DatasetError, has_benchmark, has_split, require_benchmarks
from embed.data.modalities import Content
from embed.data.preprocess import Preprocessor
from embed.data.sources import SIMILARITY_SPLITS, open_split, read_records
from embed.distributed import storage
from embed.embedder import Embedder, Prepared
from embed.eval import similarity
from embed.eval.benchmarks import (
    KS,
    MAIN_METRICS,
    Benchmark,
    Results,
    dataset_of,
    from_folder,
    from_pairs,
    score,
    select_metric,
)
from embed.eval.similarity import SimilarityBenchmark, list_rows, score_pairs
from embed.model.build import EncoderModule
from embed.training.progress import show_count
from embed.training.run import Eval


class SuiteDataset(NamedTuple):
    soft_tokens: int | None  # of an image, as many as in training; None: the model's default
    task: str | None  # name of the query's prompt; None: no prompt, as beside media
    description: str


SUITE = {
    "stdlib_text": SuiteDataset(
        None, "search result", "first line of a docstring → the rest of it, from the Python standard library"
    ),
    "stdlib_code": SuiteDataset(None, "code retrieval", "docstring → source of the function, Python standard library"),
    "stdlib_document": SuiteDataset(96, None, "question → rendered page of a module's documentation"),
    "glyphs": SuiteDataset(16, None, "name of a Unicode character → its drawing"),
    "scenes_image": SuiteDataset(16, None, "caption → image of colored shapes"),
    "scenes_video": SuiteDataset(None, None, "caption → video of moving shapes"),
    "scenes_audio": SuiteDataset(None, None, "caption → audio of tones"),
    "scenes_edit": SuiteDataset(16, None, 'image and "the same, but blue" → the changed image'),
    "scenes_labels": SuiteDataset(None, "classification", "caption → its label"),
}
MAX_TEXT_TOKENS = 126  # of an input; with the two special tokens a row of 128
DEV_RECORDS = 64  # of each dataset in an evaluation during training: one batch a side, so few programs to compile
PreparedBenchmark = tuple[Benchmark | SimilarityBenchmark, Prepared, Prepared]
Vectors = list[tuple[np.ndarray, np.ndarray]]  # f32[q,e] and f32[n,e] of each benchmark; of graded pairs both sides


class Directions(NamedTuple):
    """A dataset's benchmarks of retrieval, and how an embedder reads its contents."""

    forward: Benchmark
    reverse: Benchmark | None = None
    task: str | None = None  # name of the query's prompt; None: no prompt
    soft_tokens: int | None = None  # of an image; None: the model's default


TestSet = Directions | SimilarityBenchmark


def read_test_sets(data: storage.Path | None, pairs: str) -> list[TestSet]:
    """Read the test splits of the suite in `data` and of the datasets under `pairs`; None and "" leave one out.

    Raises DatasetError where a dataset cannot be used or there is none.
    """
    if data is None and not pairs:
        raise DatasetError("nothing to evaluate: --data is empty and there is no --pairs")
    if pairs:
        check_names(pairs)
    test_sets: list[TestSet] = [] if data is None else [*read_suite(data, "test")]
    return test_sets + (read_datasets(pairs, "test") if pairs else [])


def read_suite(data: storage.Path, split: str, max_records: int | None = None) -> list[Directions]:
    """Read every benchmark of the suite. `max_records` takes that many records of each dataset, in even steps."""
    suite = []
    for name, dataset in SUITE.items():
        source = open_split(data / name, split)
        count = min(max_records or len(source), len(source))
        records = read_records(source) if count == len(source) else (source[i] for i in even_steps(len(source), count))
        manifest = data / name / "manifest.json"
        group = json.loads(manifest.read_text())["task"] if manifest.exists() else None
        forward, reverse = from_pairs(name, records, group)
        suite.append(Directions(forward, reverse, dataset.task, dataset.soft_tokens))
    return suite


def read_datasets(root: str, split: str) -> list[TestSet]:
    """Read the datasets under `root`: the pairs of a split, benchmarks, and graded pairs."""
    datasets: list[TestSet] = []
    for folder in require_benchmarks(root, split):
        if has_split(folder, split):
            datasets.append(Directions(*from_pairs(folder.name, read_records(open_split(folder, split)))))
        if has_benchmark(folder):
            datasets.append(Directions(from_folder(folder)))
        if has_split(folder, SIMILARITY_SPLITS[split]):
            datasets.append(similarity.from_folder(folder, split))
    return datasets


def load_suite(
    embedder: Embedder, data: storage.Path, split: str, max_records: int | None = None
) -> list[PreparedBenchmark]:
    """Decodes and preprocesses every benchmark of the suite, once for any number of checkpoints.

    `max_records` takes that many records of each dataset, in even steps.
    """
    return prepare_suite(embedder, read_suite(data, split, max_records))


def even_steps(size: int, count: int) -> list[int]:
    """At most `count` of the indices 0..size-1, in even steps."""
    return np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int)).tolist()


def load_datasets(embedder: Embedder, root: str, split: str) -> list[PreparedBenchmark]:
    """Decodes and preprocesses the datasets under `root`: the pairs of a split, benchmarks, and graded pairs."""
    return prepare_suite(embedder, read_datasets(root, split))


def prepare_suite(embedder: Embedder, test_sets: Iterable[TestSet]) -> list[PreparedBenchmark]:
    """Decodes and preprocesses the benchmarks of test sets."""
    suite: list[PreparedBenchmark] = []
    for test_set in test_sets:
        if isinstance(test_set, SimilarityBenchmark):
            suite.append(prepare_similarity(embedder, test_set))
        else:
            suite += prepare_benchmark(embedder, *test_set)
    return suite


def check_names(root: str) -> None:
    """Raise DatasetError where a dataset under `root` has the name of a built-in one."""
    taken = [folder for folder in require_benchmarks(root) if folder.name in SUITE]
    if taken:
        raise DatasetError(
            f"{taken[0]} has the name of a built-in dataset, and results are kept by name: rename the folder"
        )


def prepare_benchmark(
    embedder: Embedder,
    forward: Benchmark,
    reverse: Benchmark | None = None,
    task: str | None = None,
    soft_tokens: int | None = None,
) -> Iterator[PreparedBenchmark]:
    """Yields a dataset's benchmarks with their inputs. A side keeps its prompt in both directions."""
    document = "document" if task else None
    queries = embedder.prepare_contents(forward.queries, forward.name_query, task, soft_tokens, MAX_TEXT_TOKENS)
    corpus = embedder.prepare_contents(forward.corpus, forward.name_candidate, document, soft_tokens, MAX_TEXT_TOKENS)
    yield forward, queries, corpus
    if reverse is not None:
        if reverse.queries != forward.corpus:  # hard negatives are candidates of the forward direction alone
            corpus = embedder.prepare_contents(
                reverse.queries, reverse.name_query, document, soft_tokens, MAX_TEXT_TOKENS
            )
        yield reverse, corpus, queries


def prepare_similarity(embedder: Embedder, benchmark: SimilarityBenchmark) -> PreparedBenchmark:
    """Make the inputs of graded pairs: both sides with the same task string, where they are text."""

    def prepare(contents: Sequence[Content]) -> Prepared:
        return embedder.prepare_contents(contents, benchmark.name_pair, prompts.SIMILARITY, None, MAX_TEXT_TOKENS)

    return benchmark, prepare(benchmark.first), prepare(benchmark.second)


def encode_suite(embedder: Embedder, params: dict, suite: list[PreparedBenchmark]) -> Vectors:
    """Encodes every benchmark with one set of parameters; inputs that two directions share are encoded once."""
    inputs = {id(prepared): prepared for _, *sides in suite for prepared in sides}
    with show_count("embedding", sum(prepared.count for prepared in inputs.values()), "input") as advance:
        encoded = {key: embedder.encode(prepared, params, advance) for key, prepared in inputs.items()}
    return [(encoded[id(queries)], encoded[id(corpus)]) for _, queries, corpus in suite]


def evaluate(suite: list[PreparedBenchmark], vectors: Vectors, widths: Sequence[int]) -> Results:
    """Scores the vectors of a suite: benchmark -> width -> metric -> value."""
    results: dict[str, Mapping[int, Mapping[str, float]]] = {}
    for (benchmark, *_), sides in zip(suite, vectors, strict=True):
        if isinstance(benchmark, SimilarityBenchmark):
            results[benchmark.name] = score_pairs(benchmark, *sides, widths)
        else:
            results[benchmark.name] = score(benchmark, *sides, widths)
    return results


def mean_ndcg(results: Results) -> float:
    """The mean of nDCG@10 at full width over the benchmarks of retrieval. Raises ValueError where there are none."""
    return statistics.fmean(select_metric(results, "ndcg@10").values())


def describe_means(results: Results) -> str:
    """The means at full width for a line of the log: of nDCG@10 over retrieval, of Spearman's over graded pairs."""
    means = {label: select_metric(results, metric).values() for metric, label in MAIN_METRICS.items()}
    return ", ".join(f"mean {label} {statistics.fmean(values):.3f}" for label, values in means.items() if values)


def dev_evals(encoder: EncoderModule, data: storage.Path, every: int) -> tuple[Eval, ...]:
    """The evaluation for `Run(evals=...)`: nDCG@10 on 64 dev records of each dataset of the suite, every `every` steps;
    none where `every` is 0.

    The first value is the mean. The first call opens, decodes and compiles.
    """

    @functools.cache
    def prepare(preprocessor: Preprocessor) -> tuple[Embedder, list[PreparedBenchmark]]:
        embedder = Embedder(encoder, {}, preprocessor)
        return embedder, load_suite(embedder, data, "dev", DEV_RECORDS)

    def score_params(params: dict, preprocessor: Preprocessor) -> dict[str, float]:
        embedder, suite = prepare(preprocessor)
        results = evaluate(suite, encode_suite(embedder, params, suite), embedder.encoder.arch.matryoshka_dims[-1:])
        by_dataset = {name: {key: results[key] for key in results if dataset_of(key) == name} for name in SUITE}
        means = {f"{name} ndcg@10": mean_ndcg(rows) for name, rows in by_dataset.items()}
        return {"mean ndcg@10": mean_ndcg(results), **means}

    return (Eval("dev", every, score_params),) if every else ()


def format_table(columns: dict[str, Results]) -> str:
    """Markdown: R@1 and R@10 at full width beside chance, one row per benchmark, one column per checkpoint or
    baseline; a dash where it has no score.

    Graded pairs follow with 100 times Spearman's correlation, which is 0 at random.
    """
    lines = [
        "| benchmark | items | chance R@1 / R@10 | " + " | ".join(columns) + " |",
        "|---" * (3 + len(columns)) + "|",
    ]
    for name, rows in _rows_with(columns, "ndcg@10"):
        scored = next(row for row in rows if row)
        scores = [" / ".join(f"{100 * row[f'hit@{k}']:.1f}" for k in KS) if row else "–" for row in rows]
        chance = " / ".join(f"{100 * scored[f'chance@{k}']:.1f}" for k in KS)
        lines.append(f"| {name} | {scored['candidates']:.0f} | {chance} | " + " | ".join(scores) + " |")
    for name, rows in _rows_with(columns, "spearman"):
        for label, pairs, metric in list_rows(next(row for row in rows if row)):
            scores = [f"{100 * row[metric]:.1f}" if row else "–" for row in rows]
            lines.append(f"| {name}, {label} | {pairs:.0f} | 0.0 | " + " | ".join(scores) + " |")
    return "\n".join(lines)


def _rows_with(columns: Mapping[str, Results], metric: str) -> Iterator[tuple[str, list[Mapping[str, float]]]]:
    """Yield the benchmarks that have a metric, and every column's row at full width: {} where it has none."""
    for name in dict.fromkeys(name for results in columns.values() for name in select_metric(results, metric)):
        by_column = [results.get(name, {}) for results in columns.values()]
        yield name, [by_width[max(by_width)] if by_width else {} for by_width in by_column]
