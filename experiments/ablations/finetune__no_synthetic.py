"""What does synthetic code retrieval buy? Here the task of generated pairs is left out (report, Table 5).

Hypothesis: code tasks lose, the others gain a little from its steps.
"""

import dataclasses

from embed.training.main import run
from experiments import finetune


def plan(config):
    parent = finetune.plan(config)
    return dataclasses.replace(parent, tasks=[task for task in parent.tasks if task.name != "synthetic_code"])


if __name__ == "__main__":
    run(plan)
