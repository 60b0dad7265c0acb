"""What does pre-fine-tuning buy? Here fine-tuning starts from random weights.

Hypothesis: every modality loses without it, text and code most.
"""

import dataclasses

from embed.model.params import all_params
from embed.training.main import run
from experiments import finetune


def plan(config, **changes):
    return dataclasses.replace(finetune.plan(config, **changes), init=None, trainable=all_params)


if __name__ == "__main__":
    run(plan)
