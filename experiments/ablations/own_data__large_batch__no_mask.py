"""What does the mask buy where a batch repeats every label many times? Here every other target counts as a negative.

Hypothesis: where labels are few it is worth points: without it most of a batch is wrongly pushed away.
"""

import functools

from embed.training.main import run
from experiments import finetune
from experiments.ablations import finetune__no_mask, own_data__large_batch


def plan(config):
    return own_data__large_batch.plan(
        config, make_loss=functools.partial(finetune.make_loss, contrast=finetune__no_mask.contrast)
    )


if __name__ == "__main__":
    run(plan)
