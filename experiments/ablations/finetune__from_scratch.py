"""What does pre-fine-tuning buy? Here fine-tuning starts from random weights.

Hypothesis: without it every modality loses, texts and code most.
"""

import dataclasses

from embed.training.main import run
from experiments import finetune


def plan(config, **changes):
    return dataclasses.replace(finetune.plan(config, **changes), init=None)


if __name__ == "__main__":
    run(plan)
