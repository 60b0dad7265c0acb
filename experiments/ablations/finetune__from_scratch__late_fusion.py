"""What does one encoder buy? Here words and media have towers of their own, which meet in the vector alone.

Hypothesis: what mixes words and media loses most; the rest gains or loses less, with twice the parameters.
"""

import dataclasses

from embed.model.presets import PRESETS
from embed.training.main import run
from experiments.ablations import finetune__from_scratch


def plan(config):
    arch = dataclasses.replace(PRESETS[config.model], encoder="embed.model.late_fusion:LateFusion")
    return finetune__from_scratch.plan(config, arch=arch)


if __name__ == "__main__":
    run(plan)
