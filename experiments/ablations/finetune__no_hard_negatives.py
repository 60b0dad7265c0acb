"""What do hard negatives buy? Here no task has any.

Hypothesis: candidates that differ in one attribute, or come from the same module, are confused.
"""

import dataclasses

from embed.training.main import run
from experiments import finetune


def plan(config):
    parent = finetune.plan(config)
    return dataclasses.replace(parent, tasks=[dataclasses.replace(task, negatives=0) for task in parent.tasks])


if __name__ == "__main__":
    run(plan)
