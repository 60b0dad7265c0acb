"""Pre-fine-tuning: noisy image, text and code pairs, large batches, no hard negatives.

Gemini Embedding 2, §3.3: turns the foundation model, --config.pretrained, into an encoder; without one it starts from
random weights. Leaves out audio, video and document tasks on purpose.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from ml_collections import ConfigDict

from embed.batch import Candidates
from embed.data.budget import Budget
from embed.data.packing import PackedRows, Packing
from embed.data.tasks import Task
from embed.distributed import storage
from embed.eval.suite import dev_evals
from embed.losses.contrastive import contrastive_loss
from embed.model.build import build
from embed.model.config import Architecture
from embed.model.encoder import encode_by_microbatch, encode_pairs, max_microbatch_rows, min_rows
from embed.training import optim
from embed.training.main import run
from embed.training.pretrained import find_start
from embed.training.run import LoopConfig, Run

STEPS = 340
LEARNING_RATE = 3e-3
FOUNDATION_STEPS = 200
FOUNDATION_LEARNING_RATE = 1e-4
TEMPERATURE = 0.05
SYMMETRIC = Candidates(symmetric=True)
SHORT, LONG, IMAGE = Budget(32), Budget(64), Budget(20, images=1, patches=16)
TITLE = Budget(40, images=1, patches=36)
TASKS = (
    Task("scenes_noisy", 128, 0.34, SHORT, IMAGE, candidates=SYMMETRIC),
    Task("stdlib_titles", 64, 0.30, SHORT, TITLE, candidates=SYMMETRIC),
    Task("glyphs", 128, 0.12, SHORT, IMAGE, candidates=SYMMETRIC),
    Task("stdlib_code", 64, 0.12, LONG, LONG, prompt="code retrieval", prompt_dropout=0.5, candidates=SYMMETRIC),
    Task("stdlib_text", 64, 0.12, LONG, LONG, prompt="search result", prompt_dropout=0.5, candidates=SYMMETRIC),
)

# With --config.pretrained, on one device: batches for two cores; more of the text that the model can read, in longer
# passages, each seen about once: repeats teach the test split nothing. A packed pair takes 113 positions, not 160.
TEXT = {
    "prompt_dropout": 0.5,
    "candidates": SYMMETRIC,
    "packing": Packing(32, PackedRows(2, 32, Budget(432)), PackedRows(7, 22, Budget(392))),
}
FOUNDATION_TASKS = (
    Task("scenes_noisy", 32, 0.12, SHORT, IMAGE, candidates=SYMMETRIC),
    Task("stdlib_titles", 16, 0.07, SHORT, TITLE, candidates=SYMMETRIC),
    Task("glyphs", 32, 0.03, SHORT, IMAGE, candidates=SYMMETRIC),
    Task("stdlib_code", 32, 0.38, SHORT, Budget(128), prompt="code retrieval", **TEXT),
    Task("stdlib_text", 32, 0.40, SHORT, Budget(128), prompt="search result", **TEXT),
)


def make_loss(encoder, config, *, contrast=contrastive_loss, temperature=TEMPERATURE, widths=None):
    arch = encoder.arch

    def loss(params, pairs, candidates, key):
        def encode(inputs):
            rows = max_microbatch_rows(arch, inputs, config.microbatch)
            return encode_by_microbatch(lambda part: encoder.apply({"params": params.encoder}, part), inputs, rows)

        query, target, negative = encode_pairs(encode, pairs)
        return contrast(
            query,
            target,
            negative,
            pairs,
            temperature=temperature,
            widths=widths or arch.matryoshka_dims,
            candidates=candidates,
        )

    return loss


def plan(
    config: ConfigDict,
    *,
    arch: Architecture | None = None,
    tasks: Sequence[Task] | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    make_loss=make_loss,
) -> Run:
    start = find_start(config)
    arch = arch or start.arch
    steps = steps or (FOUNDATION_STEPS if start.is_foundation else STEPS)
    learning_rate = learning_rate or (FOUNDATION_LEARNING_RATE if start.is_foundation else LEARNING_RATE)
    tasks = tasks or (FOUNDATION_TASKS if start.is_foundation and min_rows() == 1 else TASKS)
    encoder = build(arch, jnp.dtype(config.dtype), config.remat, config.unroll, trust=(arch.encoder,))
    return Run(
        encoder,
        tasks,
        make_loss(encoder, config),
        optim.adamw(learning_rate, warmup=20, steps=steps, is_new=start.is_new),
        steps=config.steps or steps,
        seed=0,
        data=storage.path(config.data),
        init=start.init,
        trainable=start.trainable,
        evals=dev_evals(encoder, storage.path(config.data), config.eval),
        loop=LoopConfig(config.save, config.keep, config.log, config.workers),
    )


if __name__ == "__main__":
    run(plan)
