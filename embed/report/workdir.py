"""The page of a workdir: every run with results side by side, one of them in detail."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embed.distributed import hosts, storage
from embed.eval.benchmarks import Benchmark
from embed.eval.compare import Comparison
from embed.report import examples, page, space
from embed.report.examples import Example
from embed.report.runs import read_curves, read_results
from embed.report.sections import MODALITIES
from embed.training import checkpoint

EXAMPLES = 3  # of each benchmark
FAILURES = 1


def write_page(
    path: str | os.PathLike,
    work: storage.Path,
    detail: str,
    benchmarks: Sequence[Benchmark],
    vectors: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    facts: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    descriptions: Mapping[str, str] | None = None,
    first: Sequence[str] = (),
    comparisons: Sequence[Comparison] = (),
) -> None:
    """Write the page of every run in `work` that has a results.json, in the order `first`, then by name.

    `vectors` f32[q,e] and f32[n,e] of the benchmarks are those of the run `detail`. All hosts must call this: each
    searches with its share of the mesh, and the primary one writes.
    """
    pairs = list(zip(benchmarks, vectors, strict=True))
    best = select_best(benchmarks, vectors)
    evenly = [example for b, sides in pairs for example in examples.select_evenly(b, *sides, EXAMPLES)]
    failures = [example for b, sides in pairs for example in examples.select_failures(b, *sides, FAILURES)]
    if not hosts.is_primary():
        return
    columns = read_results(work, first)
    curves = [read_curves(work / name) for name in columns if (work / name / "metrics.jsonl").exists()]
    report = page.Report(
        columns,
        benchmarks,
        detail,
        facts or {},
        config or {},
        descriptions or {},
        lineage=[checkpoint.lineage(work / name) for name in columns],
        curves=curves,
        best=best,
        examples=evenly,
        failures=failures,
        projection=space.project(benchmarks, vectors),
        comparisons=comparisons,
    )
    page.write(path, report)


def select_best(
    benchmarks: Sequence[Benchmark], vectors: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Example]:
    """Select an example for each modality: of its forward benchmark that has the clearest success."""
    best: dict[str, Example] = {}
    for modality in MODALITIES:
        candidates = [
            example
            for benchmark, sides in zip(benchmarks, vectors, strict=True)
            if benchmark.group == modality and not benchmark.name.endswith("→query")
            for example in examples.select_best(benchmark, *sides)
        ]
        if candidates:
            best[modality] = max(candidates, key=_clearness)
    return best


def _clearness(example: Example) -> tuple[bool, float]:
    first, *others = example.results
    return first.relevant, first.score - max((result.score for result in others), default=0.0)
