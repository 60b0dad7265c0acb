"""Mean of all tokens, or the first? Here the first token, <bos>, is the embedding, as in BERT.

Hypothesis: the mean is better: a decoder never used its first token, which saw nothing but itself.
"""

import dataclasses

from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import own_data


def plan(config):
    arch = require_foundation(config).arch
    return own_data.plan(config, arch=dataclasses.replace(arch, pooling="first"))


if __name__ == "__main__":
    run(plan)
