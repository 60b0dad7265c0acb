"""Do hard negatives teach more where the hardest count most? A weight of EmbeddingGemma's (arXiv 2509.20354).

Hypothesis: what differs in one attribute is told apart better, the rest stays.
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
