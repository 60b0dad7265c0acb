"""Must the negatives of your datasets be hard? Here every query gets another query's, in the same number.

Hypothesis: random negatives are hardly better than none, because a batch's other targets are random as well.
"""

import functools

from embed.training.main import run
from experiments import finetune, own_data
from experiments.ablations import finetune__random_negatives


def plan(config):
    return own_data.plan(
        config, make_loss=functools.partial(finetune.make_loss, contrast=finetune__random_negatives.contrast)
    )


if __name__ == "__main__":
    run(plan)
