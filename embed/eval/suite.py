"""Evaluate a checkpoint on held-out items: every task, both directions, every Matryoshka width.

  python -m embed.eval.suite --config.checkpoint=runs/soup_greedy

  mteb    python -m embed.eval.suite --config.checkpoint=runs/soup_greedy --config.mteb="MTEB Multilingual"

Scores are hits among the whole test split by exact search: R@k is the share of queries with a right item in the first
k.
"""

import json
import logging
from collections.abc import Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from embed.data.discover import DatasetError, has_benchmark, has_split, require_benchmarks
from embed.data.sources import open_split, read_records
from embed.distributed import hosts, storage
from embed.embedder import Embedder, Prepared
from embed.eval.benchmarks import KS, Benchmark, from_folder, from_pairs, score
from embed.training import checkpoint
from embed.training.config_check import ConfigError, require_checkpoint
from embed.training.main import run

log = logging.getLogger(__name__)
# Dataset -> soft tokens of an image (None = the model's own number), the query's task name where text has one.
SUITE: dict[str, tuple[int | None, str | None]] = {
    "stdlib_text": (None, "search result"),
    "stdlib_code": (None, "code retrieval"),
    "stdlib_document": (96, None),
    "glyphs": (None, None),
    "scenes_image": (None, None),
    "scenes_video": (None, None),
    "scenes_audio": (None, None),
    "scenes_edit": (None, None),
    "scenes_labels": (None, "classification"),
}
MAX_TEXT_TOKENS = 126  # of text that are read, a row of 128 with its ends; longer texts are cut
PreparedBenchmark = tuple[Benchmark, Prepared, Prepared]
Vectors = list[tuple[np.ndarray, np.ndarray]]  # of a suite: f32[q,e] and f32[n,e] of each benchmark


def load_suite(embedder: Embedder, data: storage.Path, split: str) -> list[PreparedBenchmark]:
    """Every benchmark of the suite, decoded and laid out once for any number of checkpoints."""
    suite: list[PreparedBenchmark] = []
    for name, (patches, task) in SUITE.items():
        source = open_split(data / name, split)
        kind = json.loads((data / name / "manifest.json").read_text())["task"]
        there, back = from_pairs(name, read_records(source), kind)
        suite += prepare_benchmark(embedder, there, back, task, patches)
    return suite


def load_datasets(embedder: Embedder, root: str, split: str) -> list[PreparedBenchmark]:
    """Benchmarks of the datasets under `root`: those of a split's pairs, and those given as corpus and queries."""
    suite: list[PreparedBenchmark] = []
    for folder in require_benchmarks(root, split):
        if has_split(folder, split):
            suite += prepare_benchmark(embedder, *from_pairs(folder.name, read_records(open_split(folder, split))))
        if has_benchmark(folder):
            suite += prepare_benchmark(embedder, from_folder(folder))
    return suite


def check_names(root: str) -> None:
    """Raises DatasetError where the datasets under `root` cannot be scored beside the suite."""
    taken = [folder for folder in require_benchmarks(root) if folder.name in SUITE]
    if taken:
        raise DatasetError(
            f"{taken[0]} has the name of a built-in dataset, and results are kept by name: rename the folder"
        )


def prepare_benchmark(
    embedder: Embedder,
    there: Benchmark,
    back: Benchmark | None = None,
    task: str | None = None,
    patches: int | None = None,
) -> Iterator[PreparedBenchmark]:
    """One dataset, in both directions if it has two; its sides keep their prompts whichever way they are searched."""
    document = "document" if task else None
    queries = embedder.prepare_contents(there.queries, there.name_query, task, patches, MAX_TEXT_TOKENS)
    corpus = embedder.prepare_contents(there.corpus, there.name_candidate, document, patches, MAX_TEXT_TOKENS)
    yield there, queries, corpus
    if back is not None:
        if back.queries != there.corpus:  # hard negatives are candidates, and nobody's query
            corpus = embedder.prepare_contents(back.queries, back.name_query, document, patches, MAX_TEXT_TOKENS)
        yield back, corpus, queries


def encode_suite(embedder: Embedder, params: dict, suite: list[PreparedBenchmark]) -> Vectors:
    """The vectors of every benchmark for one set of parameters; what two directions share is encoded once."""
    found: dict[int, np.ndarray] = {}

    def of(prepared: Prepared) -> np.ndarray:
        if id(prepared) not in found:
            found[id(prepared)] = embedder.encode(prepared, params)
        return found[id(prepared)]

    return [(of(queries), of(corpus)) for _, queries, corpus in suite]


def evaluate(
    suite: list[PreparedBenchmark], vectors: Vectors, widths: Sequence[int]
) -> dict[str, dict[int, dict[str, float]]]:
    """Benchmark -> width -> metric -> value."""
    return {one.name: score(one, *both, widths) for (one, *_), both in zip(suite, vectors, strict=True)}


def mean_ndcg(results: dict[str, dict[int, dict[str, float]]]) -> float:
    """One number for choosing: nDCG@10 at full width, mean over benchmarks."""
    return sum(by_width[max(by_width)]["ndcg@10"] for by_width in results.values()) / len(results)


def format_table(columns: dict[str, dict], suite: list[PreparedBenchmark]) -> str:
    """Markdown: R@1 and R@10 at full width, a row a benchmark, beside chance."""
    names = list(columns)
    lines = ["| task | items | chance R@1 / R@10 | " + " | ".join(names) + " |", "|---" * (3 + len(names)) + "|"]
    for benchmark, *_ in suite:
        cells = []
        for name in names:
            by_width = columns[name][benchmark.name]
            best = by_width[max(by_width)]
            cells.append(f"{100 * best['hit@1']:.1f} / {100 * best['hit@10']:.1f}")
        chance = " / ".join(f"{100 * benchmark.chance(k):.1f}" for k in KS)
        lines.append(f"| {benchmark.name} | {len(benchmark.corpus)} | {chance} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run_mteb(config: ConfigDict) -> None:
    """Tasks of mteb: its protocol, and its own form of results, in the workdir. What could not be loaded is named."""
    try:
        import mteb

        from embed.eval.mteb import MtebModel, find_tasks
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: --config.mteb needs the extra [eval] ({error}): pip install -e '.[eval]'") from error
    path, folder = require_checkpoint(config), storage.path(config.workdir) / "mteb"
    embedder = Embedder.load(path)
    try:
        model = MtebModel(embedder, path.name, config.dim or None)
    except ValueError as error:
        raise ConfigError(f"--config.dim={config.dim}: {error}") from error
    try:
        chosen = find_tasks(config.mteb)
    except KeyError as error:
        raise ConfigError(f"--config.mteb={config.mteb}: {error.args[0]}") from error
    found = mteb.evaluate(model, chosen, cache=mteb.ResultCache(str(folder)), raise_error=False)
    print("| task | metric | score |\n|---|---|---|")
    for result in found.task_results:
        print(f"| {result.task_name} | {result.task.metadata.main_score} | {result.get_score():.4f} |")
    for failed in found.exceptions or ():
        reason = (failed.exception.strip().splitlines() or ["no reason given"])[-1]
        print(f"not scored: {failed.task_name}: {reason}")
    print(f"results in {storage.absolute(folder)}")


def main(config: ConfigDict) -> None:
    if config.mteb:
        return run_mteb(config)
    path = require_checkpoint(config)
    out = checkpoint.locate(path)[0] / "results.json"
    if config.pairs:
        check_names(config.pairs)
    embedder = Embedder.load(path)
    suite = load_suite(embedder, storage.path(config.data), "test")
    suite += load_datasets(embedder, config.pairs, "test") if config.pairs else []
    results = evaluate(suite, encode_suite(embedder, embedder.params, suite), embedder.encoder.arch.matryoshka_dims)
    if hosts.is_primary():
        out.write_text(json.dumps(results, indent=1))
        print(format_table({path.name: results}, suite))
        print(f"mean nDCG@10 {mean_ndcg(results):.3f}; all metrics and widths in {out}")


if __name__ == "__main__":
    run(main)
