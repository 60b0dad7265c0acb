"""The whole recipe in one command: pre-fine-tune, fine-tune on two mixtures, soup, evaluate, and a page of results.

  run     python -m experiments.recipe --config=configs/cpu.py
Stopped anywhere, the same command goes on from the last checkpoint.
"""

import json
import logging
import pathlib
import time

import jax
from ml_collections import ConfigDict

from embed import checkpoint
from embed.api import Embedder
from embed.eval import report
from embed.program import run
from experiments import evaluate, finetune, finetune__more_media, prefinetune, soup

log = logging.getLogger(__name__)
STAGES = ("prefinetune", "finetune", "finetune__more_media", "soup_uniform", "soup_weighted", "soup_greedy")
FINAL = "soup_greedy"
SHOWN = 3  # queries of each benchmark in the gallery


def main(config: ConfigDict) -> None:
    started, work, data = time.monotonic(), pathlib.Path(config.workdir), pathlib.Path(config.data)
    for stage in (prefinetune, finetune, finetune__more_media, soup):
        # Every stage goes on from its own last checkpoint, and does nothing where it is done.
        log.info("stage: %s", stage.__name__.removeprefix("experiments."))
        stage.main(config)

    embedder = Embedder.load(work / FINAL)
    suite = evaluate.load_suite(embedder, data, "test")
    columns = {}
    for name in STAGES:
        columns[name] = evaluate.evaluate(embedder, checkpoint.load_params(work / name), suite)
        log.info("evaluated %s: mean nDCG@10 %.3f", name, evaluate.mean(columns[name]))
    (work / "results.json").write_text(json.dumps(columns, indent=1))

    facts = {
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(embedder.params)):,}",
        "code": checkpoint.code_version(),
        "minutes of this call": f"{(time.monotonic() - started) / 60:.1f}",
        **{f"mean nDCG@10, {name}": f"{evaluate.mean(columns[name]):.3f}" for name in STAGES},
    }
    curves = [report.read_curves(work / name) for name in STAGES if (work / name / "metrics.jsonl").exists()]
    gallery = [example for ready in suite for example in report.examples(embedder, ready, SHOWN)]
    page = work / "report.html"
    report.write(page, facts, columns, [benchmark for benchmark, *_ in suite], curves, gallery)
    print(evaluate.table(columns, suite))
    print(f"\nThe page of results: {page.resolve()}")


if __name__ == "__main__":
    run(main)
