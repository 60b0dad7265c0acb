"""Does what a foundation model knows wear off with more steps? Here random weights take as many as own_data__longer.

Hypothesis: no; after 150 steps random weights are still far below the foundation model after 60.
"""

from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments.ablations import own_data__from_scratch, own_data__longer


def plan(config):
    require_foundation(config)
    return own_data__from_scratch.plan(config, steps=own_data__longer.STEPS)


if __name__ == "__main__":
    run(plan)
