"""The whole recipe in one command: pre-fine-tune, fine-tune on two mixtures, soup, evaluate, and a page of results.

  run     python -m experiments.recipe --config=configs/cpu.py
  yours   python -m experiments.recipe --config=configs/cpu.py --config.pairs=FOLDER
Stopped anywhere, the same command goes on from the last checkpoint.
"""

import json
import logging
import time
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from embed.data.discover import require_datasets
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import suite as evaluate
from embed.eval.compare import Comparison
from embed.report import page as report
from embed.report import space
from embed.training.main import run
from embed.training.metadata import code_version, read_lineage
from experiments import finetune, own_data, prefinetune, soup
from experiments.ablations import finetune__more_media
from experiments.studies import findings

log = logging.getLogger(__name__)
STAGES = ("prefinetune", "finetune", "finetune__more_media", "soup_uniform", "soup_weighted", "soup_greedy")
FINAL = "soup_greedy"
PAIRS_STAGES = ("prefinetune", FINAL, "pairs")  # what is compared on datasets of your own
SHOWN = 3  # queries of each benchmark in the gallery


def main(config: ConfigDict) -> None:
    started, work, data = time.monotonic(), storage.path(config.workdir), storage.path(config.data)
    if config.pairs:
        require_datasets(config.pairs, "train")
        evaluate.check_names(config.pairs)
    for stage in (prefinetune, finetune, finetune__more_media, soup, *([own_data] if config.pairs else [])):
        # Every stage goes on from its own last checkpoint, and does nothing where it is done.
        log.info("stage: %s", stage.__name__.removeprefix("experiments."))
        stage.main(config)

    embedder = Embedder.load(work / FINAL)
    suite = evaluate.load_suite(embedder, data, "test")
    columns, vectors = compare(embedder, work, STAGES, suite)
    facts = {
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(embedder.params)):,}",
        "code": code_version(),
        "shown in detail": FINAL,
        "its mean nDCG@10": f"{evaluate.mean_ndcg(columns[FINAL]):.3f}",
        "minutes of this call": f"{(time.monotonic() - started) / 60:.1f}",
    }
    curves = [report.read_curves(work / name) for name in STAGES if (work / name / "metrics.jsonl").exists()]
    page, ablations = work / "report.html", list(findings.compared(work))
    show(page, facts, columns, suite, vectors, curves, [work / name for name in STAGES], ablations)
    if hosts.is_primary():
        (work / "results.json").write_text(json.dumps(columns, indent=1))
        print(evaluate.format_table(columns))
        print(f"\nThe page of results: {storage.absolute(page)}")

    if config.pairs:
        suite = evaluate.load_datasets(embedder, config.pairs, "test")
        columns, vectors = compare(embedder, work, PAIRS_STAGES, suite)
        page, curves = work / "report_pairs.html", [report.read_curves(work / "pairs")]
        facts = {"code": code_version(), "datasets": config.pairs}
        show(page, facts, columns, suite, vectors, curves, [work / name for name in PAIRS_STAGES])
        if hosts.is_primary():
            (work / "results_pairs.json").write_text(json.dumps(columns, indent=1))
            print(f"\n{evaluate.format_table(columns)}")
            print(f"\nThe page of your datasets: {storage.absolute(page)}")


def compare(
    embedder: Embedder, work: storage.Path, stages: Sequence[str], suite: list[evaluate.PreparedBenchmark]
) -> tuple[dict[str, dict], evaluate.Vectors]:
    """(stage -> its results on a suite, the vectors of the last one)."""
    columns = {}
    for name in stages:
        vectors = evaluate.encode_suite(embedder, embedder.load_params(work / name), suite)
        columns[name] = evaluate.evaluate(suite, vectors, embedder.encoder.arch.matryoshka_dims)
        log.info("evaluated %s: mean nDCG@10 %.3f", name, evaluate.mean_ndcg(columns[name]))
    return columns, vectors


def show(
    page: storage.Path,
    facts: dict[str, str],
    columns: dict[str, dict],
    suite: list[evaluate.PreparedBenchmark],
    vectors: evaluate.Vectors,
    curves: Sequence[report.Curves],
    runs: Sequence[storage.Path],
    ablations: Sequence[Comparison] = (),
) -> None:
    """Writes the page, of vectors that are those of the last column. All hosts must call it: the search for examples
    is one of the whole mesh, and the first host writes."""
    benchmarks = [benchmark for benchmark, *_ in suite]
    both = list(zip(benchmarks, vectors, strict=True))
    gallery = [example for one, found in both for example in report.examples(one, *found, SHOWN)]
    wrong = [example for one, found in both for example in report.failures(one, *found, 1)]
    if hosts.is_primary():
        report.write(
            page,
            facts,
            columns,
            benchmarks,
            curves,
            gallery=gallery,
            wrong=wrong,
            found=space.project(benchmarks, vectors),
            lineage=[read_lineage(run) for run in runs],
            ablations=ablations,
        )


if __name__ == "__main__":
    run(main)
