"""What does the recipe add to a foundation model before your datasets? Here training starts from its greedy soup.

Hypothesis: little on datasets that are trained on, which have pairs of their own; more on those that are not.
"""

import dataclasses

from embed.distributed import storage
from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import own_data


def plan(config):
    require_foundation(config)
    return dataclasses.replace(own_data.plan(config), init=storage.path(config.workdir) / own_data.START)


if __name__ == "__main__":
    run(plan)
