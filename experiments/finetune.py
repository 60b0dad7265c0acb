"""Fine-tuning: every modality, hard negatives, batch size and weight per task, prompts dropped at random.

Gemini Embedding 2, §3.3. Starts from the last checkpoint of experiments/prefinetune.py. Forks: experiments/ablations/.
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

START = "prefinetune"
STEPS = 300
LEARNING_RATE = 2e-3
FOUNDATION_STEPS = 80
FOUNDATION_LEARNING_RATE = 2e-5  # a fifth of the stage before, whose text would be forgotten otherwise
TEMPERATURE = 0.05
TEXT = {"prompt_dropout": 0.5, "negatives": 1, "candidates": Candidates(symmetric=True)}
MEDIA = {"negatives": 1, "candidates": Candidates(symmetric=True)}
SHORT, LONG, IMAGE = Budget(32), Budget(64), Budget(20, images=1, patches=16)
QUESTION, PAGE = Budget(28), Budget(100, images=1, patches=96)
VIDEO, AUDIO = Budget(76, images=4, patches=16), Budget(24, clips=1, frames=20)
TASKS = (
    Task("scenes_image", 64, 0.07, SHORT, IMAGE, **MEDIA),
    Task("scenes_video", 32, 0.22, SHORT, VIDEO, **MEDIA),
    Task("scenes_audio", 64, 0.26, Budget(48), AUDIO, **MEDIA),
    Task("scenes_edit", 64, 0.04, Budget(40, images=1, patches=16), IMAGE, **MEDIA),
    Task("scenes_labels", 32, 0.02, LONG, LONG, prompt="classification", **TEXT),
    Task("glyphs", 64, 0.05, SHORT, IMAGE, **MEDIA),
    Task("stdlib_document", 32, 0.20, QUESTION, PAGE, **MEDIA),
    Task("stdlib_code", 32, 0.04, LONG, LONG, prompt="code retrieval", **TEXT),
    Task("synthetic_code", 32, 0.04, LONG, LONG, prompt="code retrieval", **TEXT),
    Task("stdlib_text", 32, 0.04, LONG, LONG, prompt="search result", **TEXT),
)

# With --config.pretrained, on one device: batches for two cores; more of the text that the model can read, in longer
# passages and packed.
PACKED = {**TEXT, "packing": Packing(16, PackedRows(1, 16, Budget(432)), PackedRows(7, 22, Budget(408)))}
FOUNDATION_TASKS = (
    Task("scenes_image", 16, 0.10, SHORT, IMAGE, **MEDIA),
    Task("scenes_video", 8, 0.10, SHORT, VIDEO, **MEDIA),
    Task("scenes_audio", 16, 0.14, Budget(48), AUDIO, **MEDIA),
    Task("scenes_edit", 16, 0.05, Budget(40, images=1, patches=16), IMAGE, **MEDIA),
    Task("scenes_labels", 16, 0.05, SHORT, SHORT, prompt="classification", **TEXT),
    Task("glyphs", 16, 0.04, SHORT, IMAGE, **MEDIA),
    Task("stdlib_document", 8, 0.12, QUESTION, PAGE, **MEDIA),
    Task("stdlib_code", 16, 0.14, SHORT, Budget(128), prompt="code retrieval", **PACKED),
    Task("synthetic_code", 16, 0.06, SHORT, Budget(128), prompt="code retrieval", **PACKED),
    Task("stdlib_text", 16, 0.20, SHORT, Budget(128), prompt="search result", **PACKED),
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
        optim.adamw(learning_rate, warmup=10, steps=steps, is_new=start.is_new),
        steps=config.steps or steps,
        seed=1,
        data=storage.path(config.data),
        evals=dev_evals(encoder, storage.path(config.data), config.eval),
        init=storage.path(config.workdir) / START,
        trainable=start.trainable,
        loop=LoopConfig(config.save, config.keep, config.log, config.workers),
    )


if __name__ == "__main__":
    run(plan)
