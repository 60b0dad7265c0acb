"""What does one encoder buy? Here text and media have separate towers that meet only in the embedding.

Hypothesis: inputs that mix text and media lose most; the rest changes little, with twice the parameters.
"""

import dataclasses

from embed.training.main import run
from embed.training.pretrained import find_start
from experiments.ablations import finetune__from_scratch


def plan(config):
    arch = dataclasses.replace(find_start(config).arch, encoder="embed.model.late_fusion:LateFusion")
    return finetune__from_scratch.plan(config, arch=arch)


if __name__ == "__main__":
    run(plan)
