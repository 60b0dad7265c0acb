"""Does the vector of an interleaved input know the order of its parts? A benchmark that mteb cannot express.

Hypothesis: without training for it, the order is a guess (50 %); some minutes of training teach it.
  run   python -m experiments.order --config.checkpoint=runs/soup_greedy
Texts such as "a red star, then a blue ring" are to find [picture, "then", picture], among all sequences in both orders.
"""

import dataclasses
import json
import logging

import numpy as np
from ml_collections import ConfigDict

from embed import checkpoint, hosts, optim, storage, train
from embed.api import Embedder
from embed.data.corpora import sequences
from embed.data.layout import Budget
from embed.data.prepare import sources
from embed.data.records import content_hash, to_bytes
from embed.data.sources import open_split, read, write_shards
from embed.data.tasks import Task
from embed.eval.benchmarks import Benchmark, from_pairs
from embed.program import run
from embed.search import truncate
from experiments import evaluate, finetune, pairs

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
    asked, found = truncate(queries, width), truncate(corpus, width)
    above = np.sum(asked * (found[right] - found[wrong]), axis=1)
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def scores(embedder: Embedder, params: dict, suite: list[evaluate.Ready]) -> dict[str, float]:
    """Of text to sequence, in percent."""
    ((benchmark, *_), *_), (vectors, *_) = suite, evaluate.encode(embedder, params, suite)
    results = evaluate.evaluate(suite[:1], [vectors], embedder.encoder.arch.widths)[benchmark.name]
    found = {"order": order_accuracy(benchmark, *vectors)} | {k: results[max(results)][k] for k in ("hit@1", "ndcg@10")}
    return {name: 100 * value for name, value in found.items()}


def main(config: ConfigDict) -> None:
    root = storage.path(config.workdir) / NAME
    with hosts.leader_first("sequences"):
        if not (root / "data" / "manifest.json").exists():
            for split in ("train", "test"):
                write_shards(root / "data" / TASK.name, split, map(to_bytes, sequences.sequences(split)))
            (root / "data" / "manifest.json").write_text(json.dumps({"task": "interleaved"}))
    embedder = Embedder.load(config.checkpoint)
    suite = list(evaluate.lay_out(embedder, *from_pairs(NAME, read(open_split(root / "data" / TASK.name, "test")))))
    rows = {"before": [scores(embedder, embedder.params, suite)], "after": []}
    for seed in SEEDS:
        plan = dataclasses.replace(
            pairs.plan(config, [TASK]),
            folder=root / str(seed),
            optimizer=optim.adamw(pairs.RATE, warmup=10, steps=STEPS),
            steps=config.steps or STEPS,
            seed=seed,
            init=storage.path(config.checkpoint),
        )
        train.fit(plan, embedder.layout, sources([TASK], root / "data"))
        rows["after"].append(scores(embedder, checkpoint.place_params(plan.folder), suite))
        log.info("seed %d: %s", seed, rows["after"][-1])
    if hosts.leads():
        (root / "results.json").write_text(json.dumps(rows, indent=1))
        names = list(rows["before"][0])
        print(f"| | {' | '.join(names)} |\n{'|---' * (1 + len(names))}|")
        for when, found in rows.items():
            values = np.array([list(one.values()) for one in found])
            spread = values.std(axis=0, ddof=1) if len(values) > 1 else None
            cells = [
                f"{mean:.1f}" + ("" if spread is None else f" ± {spread[i]:.1f}")
                for i, mean in enumerate(values.mean(axis=0))
            ]
            print(f"| {when} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
