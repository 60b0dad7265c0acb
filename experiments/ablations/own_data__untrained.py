"""What does training buy on your datasets? Here the model is scored as it is, with a random projection.

Hypothesis: a foundation model, which never saw a pair, ranks better than chance and far worse than after 60 steps.
"""

from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import own_data


def plan(config):
    require_foundation(config)
    return own_data.plan(config, learning_rate=1e-12, steps=1)  # a run's checkpoint needs a step


if __name__ == "__main__":
    run(plan)
