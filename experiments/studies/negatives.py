"""Which hard negatives, and how many: none, random ones, or mined ones (`python -m embed mine`), on your datasets.

Hypothesis: mined negatives teach more than random ones; random ones teach nothing that a batch's other targets do not.

    python -m experiments.studies.negatives --config.pairs=FOLDER --checkpoint=runs/soup_greedy

Every run starts from the checkpoint that mined. Runs differ only in their negatives and their seed.
"""

import dataclasses

from ml_collections import ConfigDict

from embed.data import discover
from embed.data.sources import open_split
from embed.data.writing import write_shards
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import compare
from embed.eval import suite as suites
from embed.eval.benchmarks import select_metric
from embed.retrieval.corpus_embeddings import read_pairs
from embed.retrieval.hard_negatives import sample_negatives
from embed.retrieval.mined_datasets import DEFAULT_RULE, mine_datasets, with_negatives
from embed.training.config_check import require_checkpoint, trusted_classes
from embed.training.main import run_script
from experiments import own_data
from experiments.studies.arms import CHECKPOINT_FLAG, SEEDS, result_files, score_arm, train_arm

NAME = "negatives"
STEPS = 200
MANY = DEFAULT_RULE.count
# arm -> its datasets, and hard negatives per query
ARMS = {
    "none": ("mined", 0),
    "random": ("random", 1),
    "mined": ("mined", 1),
    f"{MANY}_random": ("random", MANY),
    f"{MANY}_mined": ("mined", MANY),
}


def draw_negatives(pairs: str, out: storage.Path) -> None:
    """Write every dataset under `pairs` with random negatives, as many as are mined."""
    with hosts.primary_first("random negatives"):
        for folder in discover.require_datasets(pairs, "train"):
            source = open_split(folder, "train")
            table = read_pairs(source)
            negatives = sample_negatives(table, DEFAULT_RULE, seed=0)
            write_shards(out / folder.name, "train", with_negatives(source, table, negatives, "drawn at random"))


def compare_arms(work: storage.Path) -> list[compare.Comparison]:
    """Compare the arms over the seeds for which all have results."""
    columns = compare.read_results(result_files(work / NAME, list(ARMS)))
    if not columns["none"]:
        return []
    width = max(next(iter(columns["none"][0].values())))
    rows = {name: [(name, width, "ndcg@10")] for name in select_metric(columns["none"][0], "ndcg@10")}
    every = [key for keys in rows.values() for key in keys]
    return [compare.Comparison(*compare.parse_docstring(__doc__), columns, rows | {"mean": every})]


def main(config: ConfigDict, checkpoint: str = "") -> None:
    work, root = storage.path(config.workdir), storage.path(config.workdir) / NAME
    start = require_checkpoint(checkpoint, config.workdir)
    discover.require_benchmarks(config.pairs)
    embedder = Embedder.load(start, trust=trusted_classes(config))
    mine_datasets([embedder], config.pairs, root / "mined", storage.absolute(start))
    draw_negatives(config.pairs, root / "random")
    suite = suites.load_datasets(embedder, config.pairs, "test")
    for arm, (negatives, count) in ARMS.items():
        data = root / negatives
        tasks = [
            dataclasses.replace(task, negatives=count)
            for task in discover.make_tasks(
                str(data), embedder.preprocessor, own_data.MAX_BUDGET, own_data.BATCH, own_data.SYMMETRIC
            )
        ]
        for seed in SEEDS:
            folder = root / f"{arm}_{seed}"
            train_arm(config, embedder, tasks, data, folder, start=start, steps=STEPS, seed=seed)
            score_arm(embedder, folder, suite)
    if hosts.is_primary():
        print("\n\n".join(map(compare.format_markdown, compare_arms(work))))


if __name__ == "__main__":
    run_script(main, checkpoint=CHECKPOINT_FLAG)
