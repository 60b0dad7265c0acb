"""What do more steps buy on your datasets? Here a foundation model takes 150 instead of 60.

Hypothesis: points on every dataset, since 60 steps see a part of the pairs; most where there are many datasets.
"""

from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import own_data

STEPS = 150


def plan(config):
    require_foundation(config)
    return own_data.plan(config, steps=STEPS)


if __name__ == "__main__":
    run(plan)
