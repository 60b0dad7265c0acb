"""What do short vectors lose on your datasets without a loss of their own? Here the whole vector alone has one.

Hypothesis: short prefixes lose, the whole vector gains little.
Parent: pairs.py.
  smoke   python -m experiments.ablations.own_data__no_matryoshka --config.pairs=FOLDER --config.steps=2
  run     python -m experiments.ablations.own_data__no_matryoshka --config.pairs=FOLDER --config=configs/cpu.py
"""

import logging
from collections.abc import Sequence

import jax.numpy as jnp
from ml_collections import ConfigDict

from embed.batch import Candidates
from embed.data import discover
from embed.data.budget import Budget
from embed.data.tasks import Task
from embed.distributed import storage
from embed.losses.contrastive import contrastive_loss
from embed.model.build import build
from embed.model.encoder import encode_by_microbatch, encode_pairs, max_microbatch_rows
from embed.model.presets import PRESETS
from embed.training import loop, optim
from embed.training.main import experiment_metadata, run
from embed.training.prepare import open_sources, prepare_preprocessor

log = logging.getLogger(__name__)
NAME = "pairs__no_matryoshka"
START = "soup_greedy"
STEPS = 600
RATE = 2e-3
TEMPERATURE = 0.05
BATCH = 32
BOTH = Candidates(symmetric=True)
MOST = Budget(128, images=4, patches=16, clips=1, frames=64)  # of a row; longer contents are cut


def plan(config: ConfigDict, tasks: Sequence[Task]) -> loop.Run:
    arch, work = PRESETS[config.model], storage.path(config.workdir)
    encoder = build(arch, jnp.dtype(config.dtype), config.remat, config.unroll)

    def loss(params, pairs, candidates, key):
        def embed(inputs):
            rows = max_microbatch_rows(arch, inputs, config.microbatch)
            return encode_by_microbatch(lambda part: encoder.apply({"params": params.encoder}, part), inputs, rows)

        query, target, negative = encode_pairs(embed, pairs)
        return contrastive_loss(
            query,
            target,
            negative,
            pairs,
            temperature=TEMPERATURE,
            widths=arch.matryoshka_dims[-1:],
            candidates=candidates,
        )

    return loop.Run(
        encoder,
        tasks,
        loss,
        optim.adamw(RATE, warmup=10, steps=STEPS),
        steps=config.steps or STEPS,
        seed=2,
        data=storage.path(config.pairs),
        init=work / START,
        loop=loop.LoopConfig(config.save, config.keep, config.log, config.workers),
        folder=work / NAME,
        metadata=experiment_metadata(__file__, config),
    )


def main(config: ConfigDict) -> None:
    preprocessor = prepare_preprocessor(PRESETS[config.model], storage.path(config.data), config.pairs)
    tasks = discover.make_tasks(config.pairs, preprocessor, MOST, BATCH, BOTH)
    for task in tasks:
        log.info(
            "%s: batch %d, weight %.0f, query %s, target %s",
            task.name,
            task.batch,
            task.weight,
            task.query,
            task.target,
        )
    loop.fit(plan(config, tasks), preprocessor, open_sources(tasks, storage.path(config.pairs)))


if __name__ == "__main__":
    run(main)
