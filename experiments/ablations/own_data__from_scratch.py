"""What does all earlier training buy on your datasets? Here training starts from random weights.

Hypothesis: every dataset loses, small ones and those that are not trained on most.
"""

import dataclasses

from embed.model.params import all_params
from embed.training import optim
from embed.training.main import run
from experiments import own_data

FOUNDATION_LEARNING_RATE = 5e-4  # of random weights in the architecture of --config.pretrained, new ones as all others


def plan(config, steps=None, **changes):
    parent = dataclasses.replace(own_data.plan(config, steps=steps, **changes), init=None, trainable=all_params)
    if not config.pretrained:
        return parent
    optimizer = optim.adamw(FOUNDATION_LEARNING_RATE, warmup=10, steps=steps or own_data.FOUNDATION_STEPS)
    return dataclasses.replace(parent, optimizer=optimizer)


if __name__ == "__main__":
    run(plan)
