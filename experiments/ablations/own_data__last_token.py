"""Mean of all tokens, or the last? Here the last token, <eos>, is the embedding, under bidirectional attention.

Hypothesis: the mean is better: training must first teach a single token to collect what the others know.
"""

import dataclasses

from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import own_data


def plan(config):
    arch = require_foundation(config).arch
    return own_data.plan(config, arch=dataclasses.replace(arch, pooling="last"))


if __name__ == "__main__":
    run(plan)
