"""Decoders as they are: causal attention and the last token, as E5-Mistral and others embed.

Hypothesis: behind the bidirectional mean, before causal attention with the mean.
"""

import dataclasses

from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import own_data


def plan(config):
    arch = require_foundation(config).arch
    return own_data.plan(config, arch=dataclasses.replace(arch, attention="causal", pooling="last"))


if __name__ == "__main__":
    run(plan)
