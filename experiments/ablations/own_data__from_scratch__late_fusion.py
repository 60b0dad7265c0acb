"""What does one encoder buy on your datasets? Here text and media have separate towers.

Hypothesis: it is better, and less uneven, on datasets that are not trained on; most where text and media are mixed.
"""

import dataclasses

from embed.training.main import run
from embed.training.pretrained import find_start
from experiments.ablations import own_data__from_scratch


def plan(config):
    arch = dataclasses.replace(find_start(config).arch, encoder="embed.model.late_fusion:LateFusion")
    return own_data__from_scratch.plan(config, arch=arch)


if __name__ == "__main__":
    run(plan)
