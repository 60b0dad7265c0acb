"""What does all training before buy on your datasets? Here it starts from random weights.

Hypothesis: every dataset loses, the small ones and those not trained on most.
"""

import dataclasses

from embed.training.main import run
from experiments import own_data


def plan(config, **changes):
    return dataclasses.replace(own_data.plan(config, **changes), init=None)


if __name__ == "__main__":
    run(plan)
