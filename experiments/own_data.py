"""Fine-tuning on your own datasets: every folder under --config.pairs that has a train split (form: docs/data.md).

Starts from the greedy soup of experiments/recipe.py. The data sets the tasks, their weights and the size of their rows.
"""

import logging
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
FOUNDATION_STEPS = 150  # with --config.pretrained, which learns in fewer
FOUNDATION_LEARNING_RATE = 1e-4
BATCH = 32
SYMMETRIC = Candidates(symmetric=True)
MAX_BUDGET = Budget(128, images=4, patches=16, clips=1, frames=64)  # of a row; longer contents are truncated


def load_preprocessor(config: ConfigDict) -> Preprocessor:
    return make_preprocessor(find_start(config).arch, config)


def make_tasks(config: ConfigDict, batch: int = BATCH) -> Sequence[Task]:
    tasks = discover.make_tasks(config.pairs, load_preprocessor(config), MAX_BUDGET, batch, SYMMETRIC)
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
    make_loss=finetune.make_loss,
) -> Run:
    start = find_start(config)
    arch = arch or start.arch
    steps = FOUNDATION_STEPS if start.is_foundation else STEPS
    learning_rate = FOUNDATION_LEARNING_RATE if start.is_foundation else LEARNING_RATE
    encoder = build(arch, jnp.dtype(config.dtype), config.remat, config.unroll, trust=(arch.encoder,))
    return Run(
        encoder,
        make_tasks(config, batch) if tasks is None else tasks,
        make_loss(encoder, config),
        optim.adamw(learning_rate, warmup=10, steps=steps),
        steps=config.steps or steps,
        seed=2,
        data=storage.path(config.pairs),
        init=storage.path(config.workdir) / START,
        trainable=start.trainable,
        loop=LoopConfig(config.save, config.keep, config.log, config.workers),
    )


if __name__ == "__main__":
    run(plan)
