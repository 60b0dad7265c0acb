"""Does the vector of an interleaved input know the order of its parts? A benchmark that mteb cannot express.

Hypothesis: without training for it, the order is a guess (50 %); some minutes of training teach it.
  run   python -m experiments.studies.order --config.checkpoint=runs/soup_greedy
Texts such as "a red star, then a blue ring" are to find [picture, "then", picture], among all sequences in both orders.
"""

import dataclasses
import json
import logging

import numpy as np
from ml_collections import ConfigDict

from embed.data.budget import Budget
from embed.data.records import content_hash, to_bytes
from embed.data.sources import open_split, read_records, write_shards
from embed.data.tasks import Task
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import compare
from embed.eval import suite as evaluate
from embed.eval.benchmarks import Benchmark, from_pairs
from embed.retrieval.search import truncate_dim
from embed.toy_corpora import sequences
from embed.training import checkpoint, loop, optim
from embed.training.config_check import require_checkpoint
from embed.training.main import run
from embed.training.prepare import open_sources
from experiments import finetune, own_data

log = logging.getLogger(__name__)
NAME = "order"
SEEDS = (0, 1, 2)
STEPS = 200
PAIR = Budget(52, images=2, patches=16)
TASK = Task("sequences", 32, 1.0, Budget(48), PAIR, negatives=1, candidates=finetune.BOTH)


def order_accuracy(benchmark: Benchmark, queries: np.ndarray, corpus: np.ndarray) -> float:
    """Share of the queries, f32[q,e], that are nearer to their answer than to the same parts in the other order, among
    corpus f32[n,e]. Raises KeyError where the other order is no candidate."""
    place = {content_hash(content).tobytes(): i for i, content in enumerate(benchmark.corpus)}
    right = [next(iter(grades)) for grades in benchmark.relevance]
    wrong = [place[content_hash(benchmark.corpus[i][::-1]).tobytes()] for i in right]
    width = corpus.shape[1]
    asked, found = truncate_dim(queries, width), truncate_dim(corpus, width)
    above = np.sum(asked * (found[right] - found[wrong]), axis=1)
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def results(embedder: Embedder, params: dict, suite: list[evaluate.PreparedBenchmark]) -> dict:
    """Of text to sequence: what `evaluate` has, and at the widest width `order`."""
    ((benchmark, *_), *_), (vectors, *_) = suite, evaluate.encode_suite(embedder, params, suite)
    found = evaluate.evaluate(suite[:1], [vectors], embedder.encoder.arch.matryoshka_dims)
    by_width = found[benchmark.name]
    by_width[max(by_width)]["order"] = order_accuracy(benchmark, *vectors)
    return found


def compared(work: storage.Path) -> list[compare.Comparison]:
    """Before and after training for it, by the seeds that there are results of."""
    before, after = work / NAME / "before.json", [work / NAME / str(seed) / "results.json" for seed in SEEDS]
    columns = compare.read_results({"before": [before] * len(SEEDS), "after": after})
    if not columns["after"]:
        return []
    ((name, by_width),) = columns["after"][0].items()
    rows = {metric: [(name, max(by_width), metric)] for metric in ("hit@1", "ndcg@10", "order")}
    return [compare.Comparison(*compare.parse_docstring(__doc__), columns, rows, "percent")]


def main(config: ConfigDict) -> None:
    path, root = require_checkpoint(config), storage.path(config.workdir) / NAME
    with hosts.primary_first("sequences"):
        if not (root / "data" / "manifest.json").exists():
            for split in ("train", "test"):
                write_shards(root / "data" / TASK.name, split, map(to_bytes, sequences.sequence_records(split)))
            (root / "data" / "manifest.json").write_text(json.dumps({"task": "interleaved"}))
    embedder = Embedder.load(path)
    suite = list(
        evaluate.prepare_benchmark(
            embedder, *from_pairs(NAME, read_records(open_split(root / "data" / TASK.name, "test")))
        )
    )
    found = results(embedder, embedder.params, suite)
    if hosts.is_primary():
        (root / "before.json").write_text(json.dumps(found))
    for seed in SEEDS:
        plan = dataclasses.replace(
            own_data.plan(config, [TASK]),
            folder=root / str(seed),
            optimizer=optim.adamw(own_data.RATE, warmup=10, steps=STEPS),
            steps=config.steps or STEPS,
            seed=seed,
            init=path,
        )
        loop.fit(plan, embedder.preprocessor, open_sources([TASK], root / "data"))
        found = results(embedder, checkpoint.load_sharded(plan.folder), suite)
        if hosts.is_primary():
            (plan.folder / "results.json").write_text(json.dumps(found))
    if hosts.is_primary():
        print("\n\n".join(map(compare.format_markdown, compared(storage.path(config.workdir)))))


if __name__ == "__main__":
    run(main)
