"""Must the weights of a foundation model be trained? Here low-rank adapters of all layers are, and the projection.

Hypothesis: as good as training everything, with a tenth of the optimizer's memory; not faster.
"""

import dataclasses
import functools

from embed.model import lora
from embed.training import optim
from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import finetune, own_data

LEARNING_RATE = 1e-3  # adapters are new, as the projection is, and need larger steps than weights


def make_loss(encoder, config):
    loss = finetune.make_loss(encoder, config)
    return lambda params, *rest: loss(dataclasses.replace(params, encoder=lora.merge_adapters(params.encoder)), *rest)


def is_trained(path):
    return lora.is_adapter(path) or path[0] == "projection"


def plan(config):
    require_foundation(config)
    return dataclasses.replace(
        own_data.plan(config, make_loss=make_loss),
        init_transform=functools.partial(lora.add_adapters, rank=16),
        trainable=is_trained,
        optimizer=optim.adamw(LEARNING_RATE, warmup=10, steps=own_data.FOUNDATION_STEPS),
    )


if __name__ == "__main__":
    run(plan)
