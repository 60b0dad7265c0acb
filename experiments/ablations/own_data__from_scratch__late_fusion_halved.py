"""One encoder or two on your datasets? Here text and media have separate towers, each with half of the layers.

Hypothesis: late fusion gains only by the second tower's parameters and compute; at one encoder's size nothing.
"""

import dataclasses

from embed.training.main import run
from embed.training.pretrained import find_start
from experiments.ablations import own_data__from_scratch


def plan(config):
    arch = find_start(config).arch
    arch = dataclasses.replace(arch, encoder="embed.model.late_fusion:LateFusion", layer_groups=arch.layer_groups // 2)
    return own_data__from_scratch.plan(config, arch=arch)


if __name__ == "__main__":
    run(plan)
