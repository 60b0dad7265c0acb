"""One encoder or two? Here words and media have towers of their own, each with half of its layers.

Hypothesis: what late fusion gains is the second tower's parameters and work: for one encoder's, it gains nothing.
"""

import dataclasses

from embed.model.presets import PRESETS
from embed.training.main import run
from experiments.ablations import finetune__from_scratch


def plan(config):
    arch = PRESETS[config.model]
    arch = dataclasses.replace(arch, encoder="embed.model.late_fusion:LateFusion", layer_groups=arch.layer_groups // 2)
    return finetune__from_scratch.plan(config, arch=arch)


if __name__ == "__main__":
    run(plan)
