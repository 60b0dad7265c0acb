"""What does one encoder buy? Here text and media have separate towers that meet only in the embedding.

Hypothesis: inputs that mix text and media lose most; the rest changes little, with twice the parameters.
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
