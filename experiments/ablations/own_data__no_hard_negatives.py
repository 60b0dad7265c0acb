"""What do hard negatives buy on your datasets? Here there are none.

Hypothesis: candidates that differ in little are confused.
"""

import dataclasses

from embed.training.main import run
from experiments import own_data


def plan(config):
    parent = own_data.plan(config)
    return dataclasses.replace(parent, tasks=[dataclasses.replace(task, negatives=0) for task in parent.tasks])


if __name__ == "__main__":
    run(plan)
