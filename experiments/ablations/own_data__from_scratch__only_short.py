"""How good are the shortest embeddings alone on your datasets? From random weights.

Hypothesis: at that width it is hardly better than the parent, and longer prefixes add nothing.
"""

import functools

from embed.training.main import run
from embed.training.pretrained import find_start
from experiments import finetune
from experiments.ablations import own_data__from_scratch


def plan(config):
    widths = find_start(config).arch.matryoshka_dims[:1]
    return own_data__from_scratch.plan(config, make_loss=functools.partial(finetune.make_loss, widths=widths))


if __name__ == "__main__":
    run(plan)
