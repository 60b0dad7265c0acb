"""Does prompt dropout help inputs that arrive without a prompt? Here every prompt is always present.

Hypothesis: texts without a prompt lose, and media, which never have one; texts with a prompt gain a little.
"""

import dataclasses

from embed.training.main import run
from experiments import finetune


def plan(config):
    parent = finetune.plan(config)
    return dataclasses.replace(parent, tasks=[dataclasses.replace(task, prompt_dropout=0.0) for task in parent.tasks])


if __name__ == "__main__":
    run(plan)
