"""How good could short vectors be alone? Here the shortest Matryoshka width alone has a loss.

Hypothesis: at that width it is hardly better than the parent, and longer prefixes are worth nothing more.
"""

import functools

from embed.model.presets import PRESETS
from embed.training.main import run
from experiments import finetune


def plan(config):
    widths = PRESETS[config.model].matryoshka_dims[:1]
    return finetune.plan(config, make_loss=functools.partial(finetune.make_loss, widths=widths))


if __name__ == "__main__":
    run(plan)
