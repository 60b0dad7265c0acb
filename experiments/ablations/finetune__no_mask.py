"""What does masking equal contents buy where labels are few? Here every other target counts as a negative.

Hypothesis: few labels are pushed apart from their own texts; where contents are many, nothing changes.
"""

import functools

import jax.numpy as jnp

from embed.distributed import mesh
from embed.losses.contrastive import contrastive_loss
from embed.training.main import run
from experiments import finetune


def contrast(query, target, negative, pairs, **options):
    row = jnp.arange(len(pairs.valid), dtype=jnp.uint32, out_sharding=mesh.ROWS)[:, None]
    hashes = ("query_hash", "target_hash", "negative_hash")[: 3 if len(negative) else 2]  # at most one negative each
    unequal = pairs.replace(**{name: getattr(pairs, name) ^ row for name in hashes})
    return contrastive_loss(query, target, negative, unequal, **options)


def plan(config):
    return finetune.plan(config, make_loss=functools.partial(finetune.make_loss, contrast=contrast))


if __name__ == "__main__":
    run(plan)
