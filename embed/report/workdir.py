"""The page of a workdir: every run with results side by side, one of them in detail."""

import datetime
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embed.distributed import hosts, storage
from embed.eval.benchmarks import Benchmark, Results
from embed.eval.compare import Comparison
from embed.eval.similarity import SimilarityBenchmark
from embed.report import examples, page, space
from embed.report.examples import Example
from embed.report.runs import read_curves
from embed.report.sections import MODALITIES
from embed.training.metadata import read_lineage, read_metadata

EXAMPLES = 3  # of each benchmark
FAILURES = 1


def write_page(
    path: str | os.PathLike,
    work: storage.Path,
    columns: Mapping[str, Results],
    benchmarks: Sequence[Benchmark | SimilarityBenchmark],
    vectors: Sequence[tuple[np.ndarray, np.ndarray]],
    detail: str,
    facts: Mapping[str, str],
    *,
    descriptions: Mapping[str, str] | None = None,
    comparisons: Sequence[Comparison] = (),
    baselines: Mapping[str, Results] | None = None,
) -> None:
    """Write the page of runs in `work`, the keys of `columns`.

    `vectors` f32[q,e] and f32[n,e] of the benchmarks are those of the run `detail`; `baselines` are columns after the
    runs, where they have a score. Date and command are added to the
    facts. All hosts must call this: each searches with its share of the mesh, and the primary one writes.
    """
    pairs = [(b, sides) for b, sides in zip(benchmarks, vectors, strict=True) if isinstance(b, Benchmark)]
    retrieval, retrieval_vectors = [b for b, _ in pairs], [sides for _, sides in pairs]
    best = select_best(retrieval, retrieval_vectors)
    evenly = [example for b, sides in pairs for example in examples.select_evenly(b, *sides, EXAMPLES)]
    failures = [example for b, sides in pairs for example in examples.select_failures(b, *sides, FAILURES)]
    if not hosts.is_primary():
        return
    report = page.Report(
        columns,
        retrieval,
        detail,
        {"date": datetime.date.today().isoformat(), **facts, "command": running_command()},
        _latest_config([work / name for name in columns]),
        descriptions or {},
        lineage=[read_lineage(work / name) for name in columns],
        curves=[read_curves(work / name) for name in columns if (work / name / "metrics.jsonl").exists()],
        best=best,
        examples=evenly,
        failures=failures,
        projection=space.project(retrieval, retrieval_vectors) if retrieval else None,
        comparisons=comparisons,
        baselines=select_scored(baselines or {}, benchmarks),
    )
    page.write(path, report)


def select_scored(
    baselines: Mapping[str, Results], benchmarks: Sequence[Benchmark | SimilarityBenchmark]
) -> dict[str, Results]:
    """Select the baselines that have a score on one of the benchmarks."""
    names = {benchmark.name for benchmark in benchmarks}
    return {name: results for name, results in baselines.items() if names & results.keys()}


def running_command() -> str:
    """The command line of this process, as one would type it."""
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else sys.argv[:1]
    return shlex.join(["python", *program, *sys.argv[1:]])


def _latest_config(runs: Sequence[storage.Path]) -> Mapping[str, Any]:
    """The config of the last run that has one; soups have none."""
    configs = [read_metadata(run).get("config") for run in runs]
    return next((config for config in reversed(configs) if config), {})


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
