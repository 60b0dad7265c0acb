"""Is a foundation model an encoder already? Here it is frozen, and only the projection of its mean is trained.

Hypothesis: far behind training the layers: what a decoder's states lack, a linear map cannot add.
"""

import dataclasses

from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import own_data

LEARNING_RATE = 1e-3


def plan(config):
    require_foundation(config)
    parent = own_data.plan(config, learning_rate=LEARNING_RATE)
    return dataclasses.replace(parent, trainable=lambda path: path[0] == "projection")


if __name__ == "__main__":
    run(plan)
