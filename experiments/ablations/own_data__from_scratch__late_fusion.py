"""What does one encoder buy on your datasets? Here words and media have towers of their own.

Hypothesis: it is better on datasets not trained on, and spreads less over them; most where words and media are mixed.
"""

import dataclasses

from embed.model.presets import PRESETS
from embed.training.main import run
from experiments.ablations import own_data__from_scratch


def plan(config):
    arch = dataclasses.replace(PRESETS[config.model], encoder="embed.model.late_fusion:LateFusion")
    return own_data__from_scratch.plan(config, arch=arch)


if __name__ == "__main__":
    run(plan)
