"""Is a foundation model an encoder already? Here it is frozen, and only the projection of its mean is trained.

Hypothesis: far behind training the layers: what a decoder's states lack, a linear map cannot add.
"""

import dataclasses

from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import own_data


def plan(config):
    require_foundation(config)
    return dataclasses.replace(own_data.plan(config), trainable=lambda path: path[0] == "projection")


if __name__ == "__main__":
    run(plan)
