"""Do hard negatives teach more if the hardest count most? EmbeddingGemma's weight (arXiv 2509.20354).

Hypothesis: candidates that differ in one attribute are told apart better, the rest is unchanged.
"""

import functools

from embed.losses.contrastive import contrastive_loss
from embed.losses.regularizers import hard_negative_weighting
from embed.training.main import run
from experiments import finetune


def plan(config):
    contrast = functools.partial(contrastive_loss, hard_negative_weight=hard_negative_weighting(5.0))
    return finetune.plan(config, make_loss=functools.partial(finetune.make_loss, contrast=contrast))


if __name__ == "__main__":
    run(plan)
