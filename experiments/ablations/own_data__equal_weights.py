"""How much of each dataset? Here every dataset has the same weight, not the square root of its size.

Hypothesis: small datasets gain a little and large ones lose a little; the soup of both mixtures beats each.
"""

import dataclasses

from embed.training.main import run
from experiments import own_data


def plan(config):
    parent = own_data.plan(config)
    # A seed of its own: in the same order, runs differ by less than a soup of them needs.
    return dataclasses.replace(
        parent, tasks=[dataclasses.replace(task, weight=1.0) for task in parent.tasks], seed=parent.seed + 1
    )


if __name__ == "__main__":
    run(plan)
