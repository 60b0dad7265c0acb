"""Must negatives be hard? Here every query gets another query's: the same documents in the same number.

Hypothesis: random negatives are hardly better than none, because a batch's other targets are random as well.
"""

import functools

import jax.numpy as jnp

from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss
from embed.training.main import run
from experiments import finetune


def contrast(query, target, negative, pairs, **options):
    previous = jnp.arange(-1, len(negative) - 1)  # the hard negatives of the query before
    negative, hashes = (rows.at[previous].get(out_sharding=mesh.ROWS) for rows in (negative, pairs.negative_hash))
    return contrastive_loss(query, target, negative, pairs.replace(negative_hash=hashes), **options)


def plan(config):
    return finetune.plan(config, make_loss=functools.partial(finetune.make_loss, contrast=contrast))


if __name__ == "__main__":
    run(plan)
