"""Does dropping the task string at random help inputs that come without one? Here it is always shown.

Hypothesis: texts without their string lose, and media, which never have one; texts with it gain a little.
"""

import dataclasses

from embed.training.main import run
from experiments import finetune


def plan(config):
    parent = finetune.plan(config)
    return dataclasses.replace(parent, tasks=[dataclasses.replace(task, prompt_dropout=0.0) for task in parent.tasks])


if __name__ == "__main__":
    run(plan)
