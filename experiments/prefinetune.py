"""Pre-fine-tuning: noisy image, text and code pairs, large batches, no hard negatives.

Gemini Embedding 2, §3.3: turns the foundation model (here: random weights) into an encoder. No audio, video or document
task on purpose.
  smoke   python -m experiments.prefinetune --config.steps=2
  run     python -m experiments.prefinetune --config=configs/cpu.py
"""

import jax.numpy as jnp
from ml_collections import ConfigDict

from embed.data.preprocess import Budget
from embed.data.tasks import Task
from embed.distributed import storage
from embed.losses.contrastive import Candidates, contrast
from embed.model.encoder import Encoder, encode_by_microbatch, encode_pairs, rows_within
from embed.model.presets import PRESETS
from embed.training import loop, optim
from embed.training.main import about, run
from embed.training.prepare import layout_for, sources

STEPS = 340
TEMPERATURE = 0.05
BOTH = Candidates(both_directions=True)
WORDS, LONG, IMAGE = Budget(32), Budget(64), Budget(20, images=1, patches=16)
TITLE = Budget(40, images=1, patches=36)
TASKS = (
    Task("scenes_noisy", 128, 0.34, WORDS, IMAGE, candidates=BOTH),
    Task("stdlib_titles", 64, 0.30, WORDS, TITLE, candidates=BOTH),
    Task("glyphs", 128, 0.12, WORDS, IMAGE, candidates=BOTH),
    Task("stdlib_code", 64, 0.12, LONG, LONG, prompt="code retrieval", drop=0.5, candidates=BOTH),
    Task("stdlib_text", 64, 0.12, LONG, LONG, prompt="search result", drop=0.5, candidates=BOTH),
)


def plan(config: ConfigDict) -> loop.Run:
    arch = PRESETS[config.model]
    encoder = Encoder(arch, jnp.dtype(config.dtype), config.remat, config.unroll)
    steps = config.steps or STEPS

    def loss(params, pairs, candidates, key):
        def embed(inputs):
            rows = rows_within(arch, inputs, config.microbatch)
            return encode_by_microbatch(lambda part: encoder.apply({"params": params}, part), inputs, rows)

        query, target, negative = encode_pairs(embed, pairs)
        return contrast(
            query, target, negative, pairs, temperature=TEMPERATURE, widths=arch.widths, candidates=candidates
        )

    return loop.Run(
        storage.path(config.workdir) / "prefinetune",
        encoder,
        TASKS,
        loss,
        optim.adamw(3e-3, warmup=20, steps=STEPS),
        steps=steps,
        seed=0,
        schedule=loop.Schedule(config.save, config.keep, config.log, config.workers),
        about=about(__file__, config),
    )


def main(config: ConfigDict) -> None:
    data = storage.path(config.data)
    loop.fit(plan(config), layout_for(PRESETS[config.model], data, config.pairs), sources(TASKS, data))


if __name__ == "__main__":
    run(main)
