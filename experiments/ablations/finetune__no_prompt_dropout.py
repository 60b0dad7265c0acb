"""Does prompt dropout help inputs that come without a prompt? Here the prompt is always present.

Hypothesis: texts without a prompt lose, and media, which never have one; texts with it gain a little.
"""

import dataclasses

from embed.training.main import run
from experiments import finetune


def plan(config):
    parent = finetune.plan(config)
    return dataclasses.replace(parent, tasks=[dataclasses.replace(task, prompt_dropout=0.0) for task in parent.tasks])


if __name__ == "__main__":
    run(plan)
