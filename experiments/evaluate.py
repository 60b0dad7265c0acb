"""Evaluate a checkpoint on held-out items: every task, both directions, every Matryoshka width.

  python -m experiments.evaluate --config.checkpoint=runs/soup_greedy

Scores are hits among the whole test split by exact search: R@k is the share of queries with a right item in the first
k.
"""

import json
import logging
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from embed import checkpoint
from embed.api import Embedder, Prepared
from embed.data.records import open_split, read
from embed.eval.benchmarks import KS, Benchmark, from_pairs, score
from embed.program import run

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
Ready = tuple[Benchmark, Prepared, Prepared]


def load_suite(embedder: Embedder, data: pathlib.Path, split: str) -> list[Ready]:
    """Every benchmark of the suite, decoded and laid out once for any number of checkpoints."""
    return [ready for name in SUITE for ready in load_one(embedder, data, name, split)]


def load_one(embedder: Embedder, data: pathlib.Path, name: str, split: str) -> Iterator[Ready]:
    """One dataset in both directions; its sides keep their prompts whichever way they are searched."""
    patches, task = SUITE[name]
    kind = json.loads((data / name / "manifest.json").read_text())["task"]
    forward, backward = from_pairs(name, read(open_split(data / name, split)), kind)
    document = "document" if task else None
    queries = embedder.prepare_contents(forward.queries, task, patches)
    corpus = embedder.prepare_contents(forward.corpus, document, patches)
    yield forward, queries, corpus
    if backward.queries != forward.corpus:  # hard negatives are candidates, and nobody's query
        corpus = embedder.prepare_contents(backward.queries, document, patches)
    yield backward, corpus, queries


def evaluate(embedder: Embedder, params: dict, suite: list[Ready]) -> dict[str, dict[int, dict[str, float]]]:
    """Benchmark -> width -> metric -> value for one set of parameters."""
    vectors: dict[int, object] = {}

    def encode(prepared: Prepared):
        if id(prepared) not in vectors:
            vectors[id(prepared)] = embedder.encode(prepared, params)
        return vectors[id(prepared)]

    widths = embedder.encoder.arch.widths
    return {b.name: score(b, encode(queries), encode(corpus), widths) for b, queries, corpus in suite}


def mean(results: dict[str, dict[int, dict[str, float]]]) -> float:
    """One number for choosing: nDCG@10 at full width, mean over benchmarks."""
    return sum(by_width[max(by_width)]["ndcg@10"] for by_width in results.values()) / len(results)


def table(columns: dict[str, dict], suite: list[Ready]) -> str:
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


def main(config: ConfigDict) -> None:
    path = pathlib.Path(config.checkpoint)
    embedder = Embedder.load(path)
    suite = load_suite(embedder, pathlib.Path(config.data), "test")
    results = evaluate(embedder, embedder.params, suite)
    out = checkpoint.locate(path)[0] / "results.json"
    out.write_text(json.dumps(results, indent=1))
    print(table({path.name: results}, suite))
    print(f"mean nDCG@10 {mean(results):.3f}; all metrics and widths in {out}")


if __name__ == "__main__":
    run(main)
