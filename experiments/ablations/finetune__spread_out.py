"""Does spreading embeddings over the sphere help, and what do quantized ones lose then? EmbeddingGemma's term.

Hypothesis: it changes little at full precision, and fewer bits lose less.
"""

import functools

from embed.losses.contrastive import contrastive_loss
from embed.losses.regularizers import spread_out
from embed.training.main import run
from experiments import finetune

WEIGHT = 1.0  # of the mean squared cosine


def contrast(query, target, negative, pairs, *, widths, **options):
    value, metrics = contrastive_loss(query, target, negative, pairs, widths=widths, **options)
    spread = sum(spread_out(side, pairs.valid, widths) for side in (query, target))
    return value + WEIGHT * spread, metrics


def plan(config):
    return finetune.plan(config, make_loss=functools.partial(finetune.make_loss, contrast=contrast))


if __name__ == "__main__":
    run(plan)
