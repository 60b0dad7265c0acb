"""What do hard negatives buy? Here there are none, in any task.

Hypothesis: what differs in one attribute, or is a sibling in one module, is confused.
"""

import dataclasses

from embed.training.main import run
from experiments import finetune


def plan(config):
    parent = finetune.plan(config)
    return dataclasses.replace(parent, tasks=[dataclasses.replace(task, negatives=0) for task in parent.tasks])


if __name__ == "__main__":
    run(plan)
