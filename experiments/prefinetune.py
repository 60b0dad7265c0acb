"""Pre-fine-tuning: noisy image, text and code pairs, large batches, no hard negatives.

Gemini Embedding 2, §3.3: turns the foundation model (here: random weights) into an encoder. No audio, video or document
task on purpose.
  smoke   python -m experiments.prefinetune --config.steps=2
  run     python -m experiments.prefinetune --config=configs/cpu.py
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

STEPS = 340
TEMPERATURE = 0.05
BOTH = Candidates(symmetric=True)
WORDS, LONG, IMAGE = Budget(32), Budget(64), Budget(20, images=1, patches=16)
TITLE = Budget(40, images=1, patches=36)
TASKS = (
    Task("scenes_noisy", 128, 0.34, WORDS, IMAGE, candidates=BOTH),
    Task("stdlib_titles", 64, 0.30, WORDS, TITLE, candidates=BOTH),
    Task("glyphs", 128, 0.12, WORDS, IMAGE, candidates=BOTH),
    Task("stdlib_code", 64, 0.12, LONG, LONG, prompt="code retrieval", prompt_dropout=0.5, candidates=BOTH),
    Task("stdlib_text", 64, 0.12, LONG, LONG, prompt="search result", prompt_dropout=0.5, candidates=BOTH),
)


def plan(config: ConfigDict) -> loop.Run:
    arch = PRESETS[config.model]
    encoder = build(arch, jnp.dtype(config.dtype), config.remat, config.unroll)
    steps = config.steps or STEPS

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
        optim.adamw(3e-3, warmup=20, steps=STEPS),
        steps=steps,
        seed=0,
        data=storage.path(config.data),
        loop=loop.LoopConfig(config.save, config.keep, config.log, config.workers),
        folder=storage.path(config.workdir) / "prefinetune",
        metadata=experiment_metadata(__file__, config),
    )


def main(config: ConfigDict) -> None:
    data = storage.path(config.data)
    loop.fit(plan(config), prepare_preprocessor(PRESETS[config.model], data, config.pairs), open_sources(TASKS, data))


if __name__ == "__main__":
    run(main)
