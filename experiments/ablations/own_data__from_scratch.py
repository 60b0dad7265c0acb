"""What does all earlier training buy on your datasets? Here training starts from random weights.

Hypothesis: every dataset loses, small ones and those that are not trained on most.
"""

import dataclasses

from embed.model.params import all_params
from embed.training.main import run
from experiments import own_data

FOUNDATION_LEARNING_RATE = 5e-4  # of random weights in the architecture of --config.pretrained


def plan(config, **changes):
    if config.pretrained:
        changes = {"learning_rate": FOUNDATION_LEARNING_RATE, **changes}
    return dataclasses.replace(own_data.plan(config, **changes), init=None, trainable=all_params)


if __name__ == "__main__":
    run(plan)
