"""How many mined negatives per query? Here four.

Hypothesis: better than one, by less than the first one brought; a step costs more than twice as much.
"""

from embed.training.main import run
from experiments.ablations import own_data__mined_negatives


def plan(config):
    return own_data__mined_negatives.plan(config, count=4)


if __name__ == "__main__":
    run(plan)
