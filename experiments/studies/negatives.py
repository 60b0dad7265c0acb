"""Which hard negatives, and how many: none, random ones, or mined ones (experiments/mine.py), on your datasets.

Hypothesis: mined ones teach more than random ones; random ones teach nothing that a batch's other targets do not.
  run   python -m experiments.studies.negatives --config.pairs=FOLDER --config.checkpoint=runs/soup_greedy
Every run starts from the checkpoint that mined, and differs in its negatives and its seed alone. Three seeds each.
"""

import dataclasses
import json
import logging

from ml_collections import ConfigDict

from embed.data import discover
from embed.data.sources import open_split, write_shards
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import compare
from embed.eval import suite as evaluate
from embed.retrieval.corpus_embeddings import read_pairs
from embed.retrieval.hard_negatives import sample_negatives
from embed.training import checkpoint, loop, optim
from embed.training.config_check import require_checkpoint
from embed.training.main import run
from embed.training.prepare import open_sources
from experiments import mine, own_data

log = logging.getLogger(__name__)
NAME = "negatives"
SEEDS = (0, 1, 2)
STEPS = 200
# a run -> which negatives, and how many a query
ARMS = {"none": (mine.NAME, 0), "random": ("random", 1), "mined": (mine.NAME, 1)}
ARMS |= {
    f"{mine.RULE.count}_random": ("random", mine.RULE.count),
    f"{mine.RULE.count}_mined": (mine.NAME, mine.RULE.count),
}


def compared(work: storage.Path) -> list[compare.Comparison]:
    """What there are results of, by the seeds that all arms have."""
    files = {arm: [work / NAME / f"{arm}_{seed}" / "results.json" for seed in SEEDS] for arm in ARMS}
    columns = compare.read_results(files)
    if not columns["none"]:
        return []
    width = max(next(iter(columns["none"][0].values())))
    rows = {name: [(name, width, "ndcg@10")] for name in columns["none"][0]}
    every = [place for places in rows.values() for place in places]
    return [compare.Comparison(*compare.parse_docstring(__doc__), columns, rows | {"mean": every})]


def main(config: ConfigDict) -> None:
    work, root = storage.path(config.workdir), storage.path(config.workdir) / NAME
    path = require_checkpoint(config)
    discover.require_benchmarks(config.pairs)
    embedder = Embedder.load(path)
    mine.main(config)
    with hosts.primary_first("random negatives"):
        for folder in discover.require_datasets(config.pairs, "train"):
            source = open_split(folder, "train")
            found = read_pairs(source)
            records = mine.negatives(source, found, sample_negatives(found, mine.RULE, seed=0), "drawn at random")
            write_shards(root / "random" / folder.name, "train", records)
    suite = evaluate.load_datasets(embedder, config.pairs, "test")
    for arm, (kind, count) in ARMS.items():
        data = root / kind if kind == "random" else work / kind
        tasks = [
            dataclasses.replace(task, negatives=count)
            for task in discover.make_tasks(
                str(data), embedder.preprocessor, own_data.MOST, own_data.BATCH, own_data.BOTH
            )
        ]
        for seed in SEEDS:
            plan = dataclasses.replace(
                own_data.plan(config, tasks),
                folder=root / f"{arm}_{seed}",
                optimizer=optim.adamw(own_data.RATE, warmup=10, steps=STEPS),
                steps=config.steps or STEPS,
                seed=seed,
                init=path,
            )
            loop.fit(plan, embedder.preprocessor, open_sources(tasks, data))
            vectors = evaluate.encode_suite(embedder, checkpoint.load_sharded(plan.folder), suite)
            results = evaluate.evaluate(suite, vectors, embedder.encoder.arch.matryoshka_dims)
            log.info("%s, seed %d: mean nDCG@10 %.3f", arm, seed, evaluate.mean_ndcg(results))
            if hosts.is_primary():
                (plan.folder / "results.json").write_text(json.dumps(results))
    if hosts.is_primary():
        print("\n\n".join(map(compare.format_markdown, compared(work))))


if __name__ == "__main__":
    run(main)
