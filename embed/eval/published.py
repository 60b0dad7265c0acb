"""The report's tables for a checkpoint: the benchmarks whose data is present, by the report's protocol."""

import json
from collections.abc import Mapping, Sequence

from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import report_benchmarks, suite
from embed.eval.benchmarks import score
from embed.eval.report_benchmarks import ReportBenchmark
from embed.training.config_check import ConfigError

HEAD = ("benchmark", "metric", "queries", "candidates", "chance of hit@k", "checkpoint", "report")


def select_benchmarks(like: Sequence[str]) -> list[ReportBenchmark]:
    """Return the report's benchmarks, and for each FOLDER:NAME that folder by the protocol of benchmark NAME.

    Raises ConfigError for anything else.
    """
    selected = list(report_benchmarks.TABLES)
    for pair in like:
        folder, _, name = pair.partition(":")
        try:
            selected.append(report_benchmarks.under_protocol(name, folder))
        except KeyError:
            names = ", ".join(benchmark.name for benchmark in report_benchmarks.TABLES)
            raise ConfigError(f"--like {pair!r} is not FOLDER:NAME with a name of: {names}") from None
    return selected


def score_report_benchmarks(
    embedder: Embedder, root: storage.Path, benchmarks: Sequence[ReportBenchmark], out: storage.Path
) -> str:
    """Score the benchmarks whose data is under `root`, and write all metrics to `out` as JSON.

    Returns a Markdown table beside the report's scores, then a line for each benchmark without data that says where to
    get it. All hosts call this.
    """
    width = max(embedder.encoder.arch.matryoshka_dims)
    results: dict[str, Mapping[int, Mapping[str, float]]] = {}
    rows, missing = [], []
    for benchmark in benchmarks:
        directions = report_benchmarks.load(benchmark, root)
        if not directions:
            missing.append(benchmark.missing(root))
        for direction in directions:
            prepared = list(suite.prepare_benchmark(embedder, direction))
            ((queries, corpus),) = suite.encode_suite(embedder, embedder.params, prepared)
            results[direction.name] = score(direction, queries, corpus, (width,), report_benchmarks.KS)
            value = results[direction.name][width][benchmark.metric]
            reported = benchmark.report[direction.name.removeprefix(f"{benchmark.name}: ")]
            chance = direction.chance(int(benchmark.metric.partition("@")[2]))
            sizes = [str(len(direction.queries)), str(len(direction.corpus))]
            scores = [f"{100 * chance:.1f}", f"{100 * value:.1f}", "" if reported is None else f"{reported:.1f}"]
            rows.append([direction.name, benchmark.metric, *sizes, *scores])
    if hosts.is_primary():
        out.write_text(json.dumps(results, indent=1))
    lines = [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *rows)]
    return "\n".join([*lines, "", *missing])
