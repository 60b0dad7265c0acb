"""Fine-tuning on your own datasets: every folder under --config.pairs that has a train split (form: docs/data.md).

Starts from the foundation model --config.pretrained, or without one from the greedy soup of experiments/recipe.py. The
data sets the tasks, their weights and the size of their rows.
"""

import dataclasses
import logging
import math
from collections.abc import Sequence

import jax.numpy as jnp
from ml_collections import ConfigDict

from embed.batch import Candidates
from embed.data import discover
from embed.data.budget import Budget
from embed.data.preprocess import Preprocessor
from embed.data.tasks import Task
from embed.distributed import storage
from embed.model.build import build
from embed.model.config import Architecture
from embed.model.encoder import min_rows
from embed.training import optim
from embed.training.main import run
from embed.training.prepare import make_preprocessor
from embed.training.pretrained import find_start
from embed.training.run import LoopConfig, Run
from experiments import finetune

log = logging.getLogger(__name__)
START = "soup_greedy"
STEPS = 600
LEARNING_RATE = 2e-3
FOUNDATION_STEPS = 60  # with --config.pretrained, which learns in fewer
FOUNDATION_LEARNING_RATE = 1e-4
FOUNDATION_MAX_BUDGET = Budget(80, images=4, patches=64, clips=1, frames=64)
FOUNDATION_ROW = 256  # tokens of a row, which several inputs share
BATCH = 32
SYMMETRIC = Candidates(symmetric=True)
MAX_BUDGET = Budget(128, images=4, patches=16, clips=1, frames=64)  # of an input; longer contents are truncated


def load_preprocessor(config: ConfigDict) -> Preprocessor:
    return make_preprocessor(find_start(config).arch, config)


def make_tasks(config: ConfigDict, batch: int = BATCH, negatives: int | None = None) -> Sequence[Task]:
    """Make a task of each dataset with `negatives` hard negatives per query, by default one where there are any.

    With a foundation model, whose steps are slow, inputs share rows.
    """
    preprocessor = load_preprocessor(config)
    max_budget = FOUNDATION_MAX_BUDGET if config.pretrained else MAX_BUDGET
    tasks = discover.make_tasks(config.pairs, preprocessor, max_budget, batch, SYMMETRIC)
    if negatives is not None:
        tasks = tuple(dataclasses.replace(task, negatives=negatives) for task in tasks)
    if config.pretrained:
        folder = storage.path(config.pairs)
        groups = [math.gcd(task.batch, min_rows()) for task in tasks]
        tasks = tuple(
            discover.with_packing(task, folder / task.name, preprocessor, task.batch // parts, FOUNDATION_ROW)
            for task, parts in zip(tasks, groups, strict=True)
        )
    for task in tasks:
        log.info(
            "%s: batch %d, weight %.0f, query %s, target %s",
            task.name,
            task.batch,
            task.weight,
            task.query,
            task.target,
        )
    return tasks


def plan(
    config: ConfigDict,
    *,
    arch: Architecture | None = None,
    tasks: Sequence[Task] | None = None,
    batch: int = BATCH,
    steps: int | None = None,
    learning_rate: float | None = None,
    make_loss=finetune.make_loss,
) -> Run:
    start = find_start(config)
    arch = arch or start.arch
    steps = steps or (FOUNDATION_STEPS if start.is_foundation else STEPS)
    learning_rate = learning_rate or (FOUNDATION_LEARNING_RATE if start.is_foundation else LEARNING_RATE)
    encoder = build(arch, jnp.dtype(config.dtype), config.remat, config.unroll, trust=(arch.encoder,))
    return Run(
        encoder,
        make_tasks(config, batch) if tasks is None else tasks,
        make_loss(encoder, config),
        optim.adamw(learning_rate, warmup=10, steps=steps, is_new=start.is_new),
        steps=config.steps or steps,
        seed=2,
        data=storage.path(config.pairs),
        init=start.init or storage.path(config.workdir) / START,
        trainable=start.trainable,
        loop=LoopConfig(config.save, config.keep, config.log, config.workers),
    )


if __name__ == "__main__":
    run(plan)
