"""Must attention be bidirectional? Here a foundation model keeps its causal attention.

Hypothesis: bidirectional attention is some points better: under causal attention a text's start
knows nothing of its end.
"""

import dataclasses

from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import own_data


def plan(config):
    arch = require_foundation(config).arch
    return own_data.plan(config, arch=dataclasses.replace(arch, attention="causal"))


if __name__ == "__main__":
    run(plan)
