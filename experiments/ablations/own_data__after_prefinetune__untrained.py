"""What does pre-fine-tuning alone give on your datasets? Here WORKDIR/prefinetune is scored as it is.

Hypothesis: more than the foundation model as it is, and less than any training on pairs of your own.
"""

from embed.training.main import run
from experiments.ablations import own_data__after_prefinetune


def plan(config):
    # A run's checkpoint needs a step; this one changes nothing.
    return own_data__after_prefinetune.plan(config, learning_rate=1e-12, steps=1)


if __name__ == "__main__":
    run(plan)
