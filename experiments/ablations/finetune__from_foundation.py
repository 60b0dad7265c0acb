"""What does pre-fine-tuning add to a foundation model? Here fine-tuning starts from --config.pretrained itself.

Hypothesis: little where fine-tuning has pairs of the same kind; more on datasets that are not trained on.
"""

import dataclasses

from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import finetune


def plan(config):
    start = require_foundation(config)
    return dataclasses.replace(finetune.plan(config), init=start.init)


if __name__ == "__main__":
    run(plan)
