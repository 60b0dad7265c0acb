"""What does synthetic code retrieval buy? Here the task of pairs that nobody wrote is left out (report, Table 5).

Hypothesis: code tasks lose, the others gain a little from its steps.
Parent: finetune.py.
  smoke   python -m experiments.ablations.finetune__no_synthetic --config.steps=2
  run     python -m experiments.ablations.finetune__no_synthetic --config=configs/cpu.py
"""

import jax.numpy as jnp
from ml_collections import ConfigDict

from embed.batch import Candidates
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

NAME = "finetune__no_synthetic"
START = "prefinetune"
STEPS = 300
RATE = 2e-3
TEMPERATURE = 0.05
DROP = 0.5
HARD = 1
BOTH = Candidates(symmetric=True)
WORDS, LONG, IMAGE = Budget(32), Budget(64), Budget(20, images=1, patches=16)
QUESTION, PAGE = Budget(28), Budget(100, images=1, patches=96)
VIDEO, AUDIO = Budget(76, images=4, patches=16), Budget(24, clips=1, frames=20)
TASKS = (
    Task("scenes_image", 64, 0.07, WORDS, IMAGE, negatives=HARD, candidates=BOTH),
    Task("scenes_video", 32, 0.22, WORDS, VIDEO, negatives=HARD, candidates=BOTH),
    Task("scenes_audio", 64, 0.26, Budget(48), AUDIO, negatives=HARD, candidates=BOTH),
    Task("scenes_edit", 64, 0.04, Budget(40, images=1, patches=16), IMAGE, negatives=HARD, candidates=BOTH),
    Task(
        "scenes_labels",
        32,
        0.02,
        LONG,
        LONG,
        prompt="classification",
        prompt_dropout=DROP,
        negatives=HARD,
        candidates=BOTH,
    ),
    Task("glyphs", 64, 0.05, WORDS, IMAGE, negatives=HARD, candidates=BOTH),
    Task("stdlib_document", 32, 0.20, QUESTION, PAGE, negatives=HARD, candidates=BOTH),
    Task(
        "stdlib_code",
        32,
        0.04,
        LONG,
        LONG,
        prompt="code retrieval",
        prompt_dropout=DROP,
        negatives=HARD,
        candidates=BOTH,
    ),
    Task(
        "stdlib_text",
        32,
        0.04,
        LONG,
        LONG,
        prompt="search result",
        prompt_dropout=DROP,
        negatives=HARD,
        candidates=BOTH,
    ),
)


def plan(config: ConfigDict) -> loop.Run:
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
            widths=arch.matryoshka_dims,
            candidates=candidates,
        )

    return loop.Run(
        encoder,
        TASKS,
        loss,
        optim.adamw(RATE, warmup=10, steps=STEPS),
        steps=config.steps or STEPS,
        seed=1,
        data=storage.path(config.data),
        init=work / START,
        loop=loop.LoopConfig(config.save, config.keep, config.log, config.workers),
        folder=work / NAME,
        metadata=experiment_metadata(__file__, config),
    )


def main(config: ConfigDict) -> None:
    data = storage.path(config.data)
    loop.fit(plan(config), prepare_preprocessor(PRESETS[config.model], data, config.pairs), open_sources(TASKS, data))


if __name__ == "__main__":
    run(main)
