"""What does masking equal contents buy on your datasets? Here every other target counts as a negative.

Hypothesis: where labels are few it is worth points; where contents are many, nothing.
"""

import functools

from embed.training.main import run
from experiments import finetune, own_data
from experiments.ablations import finetune__no_mask


def plan(config):
    return own_data.plan(config, make_loss=functools.partial(finetune.make_loss, contrast=finetune__no_mask.contrast))


if __name__ == "__main__":
    run(plan)
