"""What studies share: an arm is a short fine-tuning from one checkpoint, repeated over seeds and scored."""

import dataclasses
import functools
import json
import logging
from collections.abc import Sequence

from ml_collections import ConfigDict

from embed.data.tasks import Task
from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import suite as suites
from embed.eval.benchmarks import Results
from embed.training import loop
from embed.training.main import load_run
from embed.training.prepare import open_sources
from experiments import own_data

log = logging.getLogger(__name__)
SEEDS = (0, 1, 2)
CHECKPOINT_FLAG = "the run or soup that every arm starts from: its folder, or one checkpoints/STEP of it"


def train_arm(
    config: ConfigDict,
    embedder: Embedder,
    tasks: Sequence[Task],
    data: storage.Path,
    folder: storage.Path,
    *,
    start: storage.Path,
    steps: int,
    seed: int,
) -> None:
    """Fine-tune as own_data.py does, for `steps` steps from the checkpoint `start`, on the tasks' datasets in `data`.

    A finished arm is not repeated.
    """
    run = dataclasses.replace(
        load_run(functools.partial(own_data.plan, tasks=tasks, steps=steps), config),
        data=data,
        folder=folder,
        seed=seed,
        init=start,
    )
    loop.fit(run, embedder.preprocessor, open_sources(tasks, data))


def score_arm(embedder: Embedder, folder: storage.Path, suite: list[suites.PreparedBenchmark]) -> Results:
    """Score an arm's last checkpoint on a suite and write FOLDER/results.json."""
    vectors = suites.encode_suite(embedder, embedder.load_params(folder), suite)
    results = suites.evaluate(suite, vectors, embedder.encoder.arch.matryoshka_dims)
    log.info("%s: %s", folder.name, suites.describe_means(results))
    write_results(folder / "results.json", results)
    return results


def write_results(path: storage.Path, results: Results) -> None:
    """Write results as JSON, on the first host."""
    if hosts.is_primary():
        path.write_text(json.dumps(results))


def result_files(folder: storage.Path, arms: Sequence[str]) -> dict[str, list[storage.Path]]:
    """Return the results files of every arm, a file per seed."""
    return {arm: [folder / f"{arm}_{seed}" / "results.json" for seed in SEEDS] for arm in arms}
