"""What do short prefixes lose on your datasets without a loss of their own? From random weights.

Hypothesis: short prefixes lose much, the full embedding gains little.
"""

import functools

from embed.model.presets import PRESETS
from embed.training.main import run
from experiments import finetune
from experiments.ablations import own_data__from_scratch


def plan(config):
    widths = PRESETS[config.model].matryoshka_dims[-1:]
    return own_data__from_scratch.plan(config, make_loss=functools.partial(finetune.make_loss, widths=widths))


if __name__ == "__main__":
    run(plan)
