"""Training at the report's sizes: 8,192 pairs of 512 tokens, images of 280 soft tokens, 32 frames, 30 seconds of audio.

Made for a pod, and compiled for one on any host (`python -m launch.compile scale`). You build the tasks' datasets.
"""

import jax.numpy as jnp
from ml_collections import ConfigDict

from embed.data.budget import Budget
from embed.data.tasks import Task
from embed.distributed import storage
from embed.losses.contrastive import contrastive_loss
from embed.losses.ring import ring_score
from embed.model.build import build
from embed.model.encoder import encode_by_microbatch, encode_pairs, max_microbatch_rows
from embed.model.presets import PRESETS
from embed.training import optim
from embed.training.main import run
from embed.training.run import LoopConfig, Run

STEPS = 20_000
TEMPERATURE = 0.02
QUERY, TEXT = Budget(64), Budget(512)
IMAGE, VIDEO = Budget(288, images=1, patches=280), Budget(2560, images=32, patches=70)
AUDIO = Budget(768, clips=1, frames=750)
TASKS = (
    Task("text", 8192, 0.4, TEXT, TEXT, prompt="search result", prompt_dropout=0.5),
    Task("image", 4096, 0.3, QUERY, IMAGE),
    Task("video", 1024, 0.15, QUERY, VIDEO),
    Task("audio", 2048, 0.15, QUERY, AUDIO),
)


def make_loss(encoder, config):
    arch = encoder.arch

    def loss(params, pairs, candidates, key):
        def encode(inputs):
            rows = max_microbatch_rows(arch, inputs, config.microbatch)
            return encode_by_microbatch(lambda part: encoder.apply({"params": params.encoder}, part), inputs, rows)

        query, target, negative = (side.astype(config.dtype) for side in encode_pairs(encode, pairs))
        return contrastive_loss(
            query,
            target,
            negative,
            pairs,
            temperature=TEMPERATURE,
            widths=arch.matryoshka_dims,
            candidates=candidates,
            scorer=ring_score,
        )

    return loss


def plan(config: ConfigDict, *, make_loss=make_loss) -> Run:
    arch = PRESETS[config.model]
    encoder = build(arch, jnp.dtype(config.dtype), config.remat, config.unroll)
    return Run(
        encoder,
        TASKS,
        make_loss(encoder, config),
        optim.adamw(1e-4, warmup=1000, steps=STEPS),
        steps=config.steps or STEPS,
        seed=0,
        data=storage.path(config.data),
        init=storage.path(config.pretrained) if config.pretrained else None,
        loop=LoopConfig(config.save, config.keep, config.log, config.workers),
    )


if __name__ == "__main__":
    run(plan)
