"""The report's tables, on a checkpoint: benchmarks whose data is there, by the report's protocol, beside its scores.

  run     python -m experiments.published --config.checkpoint=runs/soup_greedy --config.pairs=FOLDER
  small   python -m experiments.published --config.checkpoint=runs/soup_greedy --config.pairs=FOLDER \
              --config.like=emoji_image:MSCOCO,lpc_animations:Vatex
What is not there is named, with where to get it and how to write it down. `like` scores other folders by a protocol.
"""

import json
import logging

from ml_collections import ConfigDict

from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import report_benchmarks
from embed.eval import suite as evaluate
from embed.eval.benchmarks import score
from embed.training import checkpoint
from embed.training.config_check import ConfigError, require_checkpoint
from embed.training.main import run

log = logging.getLogger(__name__)


def chosen(asked: str) -> list[report_benchmarks.ReportBenchmark]:
    """The report's benchmarks, and those of `FOLDER:NAME,...`."""
    found = list(report_benchmarks.TABLES)
    for pair in filter(None, (one.strip() for one in asked.split(","))):
        folder, _, name = pair.partition(":")
        try:
            found.append(report_benchmarks.under_protocol(name, folder))
        except KeyError:
            names = ", ".join(one.name for one in report_benchmarks.TABLES)
            raise ConfigError(f"--config.like: {pair!r} is not FOLDER:NAME with a name of: {names}") from None
    return found


def main(config: ConfigDict) -> None:
    path, root = require_checkpoint(config), storage.path(config.pairs)
    out = checkpoint.locate(path)[0] / "published.json"
    if not root.is_dir():
        raise ConfigError(f"--config.pairs={config.pairs!r}: no such folder")
    embedder, missing, results, lines = Embedder.load(path), [], {}, []
    width = max(embedder.encoder.arch.matryoshka_dims)
    for one in chosen(config.like):
        ways = report_benchmarks.load(one, root)
        missing += [] if ways else [one.missing(root)]
        for way in ways:
            (suite,) = evaluate.prepare_benchmark(embedder, way)
            ((queries, corpus),) = evaluate.encode_suite(embedder, embedder.params, [suite])
            results[way.name] = score(way, queries, corpus, (width,), report_benchmarks.KS)
            found, k = results[way.name][width], int(one.metric.partition("@")[2])
            report = one.report[way.name.removeprefix(f"{one.name}: ")]
            cells = [way.name, one.metric, str(len(way.queries)), str(len(way.corpus)), f"{100 * way.chance(k):.1f}"]
            lines.append([*cells, f"{100 * found[one.metric]:.1f}", "" if report is None else f"{report:.1f}"])
    if hosts.is_primary():
        out.write_text(json.dumps(results, indent=1))
        head = ["benchmark", "metric", "queries", "candidates", "chance of hit@k", path.name, "report"]
        for cells in (head, ["---"] * len(head), *lines):
            print(f"| {' | '.join(cells)} |")
        print("\n".join(["", *missing]))


if __name__ == "__main__":
    run(main)
