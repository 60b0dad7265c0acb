"""Which hard negatives: none, random ones, or mined ones (experiments/mine.py); three seeds each, on your datasets.

Hypothesis: mined ones teach more than random ones, and random ones nothing that a batch's other targets do not.
  run   python -m experiments.negatives --config.pairs=FOLDER --config.checkpoint=runs/soup_greedy
Every run starts from the checkpoint that mined, and differs in its negatives and its seed alone.
"""

import dataclasses
import logging

import numpy as np
from ml_collections import ConfigDict

from embed import checkpoint, hosts, optim, storage, train
from embed.api import Embedder
from embed.data import folders
from embed.data.prepare import sources
from embed.data.sources import open_split, write_shards
from embed.mining import at_random
from embed.program import run
from embed.vectors import scan
from experiments import evaluate, mine, pairs

log = logging.getLogger(__name__)
NAME = "negatives"
SEEDS = (0, 1, 2)
STEPS = 200
WITH = {"none": 0, "random": 1, "mined": 1}  # hard negatives of a query in training


def main(config: ConfigDict) -> None:
    work, root = storage.path(config.workdir), storage.path(config.workdir) / NAME
    embedder = Embedder.load(config.checkpoint)
    mine.main(config)
    with hosts.leader_first("random negatives"):
        for folder in folders.with_split(config.pairs, "train"):
            source = open_split(folder, "train")
            found = scan(source)
            records = mine.negatives(source, found, at_random(found, mine.RULE, seed=0), "drawn at random")
            write_shards(root / "random" / folder.name, "train", records)
    suite = evaluate.load_pairs(embedder, config.pairs, "test")
    scores: dict[str, list[dict[str, float]]] = {"before": [_scores(embedder, embedder.params, suite)]}
    for name, count in WITH.items():
        data = root / "random" if name == "random" else work / mine.NAME
        tasks = [
            dataclasses.replace(task, negatives=count)
            for task in folders.tasks(str(data), embedder.layout, pairs.MOST, pairs.BATCH, pairs.BOTH)
        ]
        for seed in SEEDS:
            plan = dataclasses.replace(
                pairs.plan(config, tasks),
                folder=root / f"{name}_{seed}",
                optimizer=optim.adamw(pairs.RATE, warmup=10, steps=STEPS),
                steps=config.steps or STEPS,
                seed=seed,
                init=storage.path(config.checkpoint),
            )
            train.fit(plan, embedder.layout, sources(tasks, data))
            params = checkpoint.place_params(plan.folder)
            scores.setdefault(name, []).append(_scores(embedder, params, suite))
            log.info("%s, seed %d: mean nDCG@10 %.3f", name, seed, np.mean(list(scores[name][-1].values())))
    if hosts.leads():
        print(table(scores))


def _scores(embedder: Embedder, params: dict, suite: list[evaluate.Ready]) -> dict[str, float]:
    results = evaluate.evaluate(suite, evaluate.encode(embedder, params, suite), embedder.encoder.arch.widths)
    return {name: by_width[max(by_width)]["ndcg@10"] for name, by_width in results.items()}


def table(scores: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: mean nDCG@10 and its standard deviation over seeds, in percent, a row a benchmark."""
    names = list(scores)
    lines = ["| task | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for benchmark in scores[names[0]][0]:
        values = [[100 * one[benchmark] for one in scores[name]] for name in names]
        cells = [f"{np.mean(v):.1f}" + (f" ± {np.std(v, ddof=1):.1f}" if len(v) > 1 else "") for v in values]
        lines.append(f"| {benchmark} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
