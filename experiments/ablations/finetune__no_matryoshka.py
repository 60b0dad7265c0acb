"""What do short prefixes lose without a loss of their own? Here only the full embedding has one.

Hypothesis: short prefixes lose much, the full embedding gains little.
"""

import functools

from embed.training.main import run
from embed.training.pretrained import find_start
from experiments import finetune


def plan(config):
    widths = find_start(config).arch.matryoshka_dims[-1:]
    return finetune.plan(config, make_loss=functools.partial(finetune.make_loss, widths=widths))


if __name__ == "__main__":
    run(plan)
