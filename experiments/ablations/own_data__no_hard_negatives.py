"""What do hard negatives buy on your datasets? Here there are none.

Hypothesis: candidates that differ in little are confused.
"""

from embed.training.main import run
from experiments import own_data


def plan(config):
    return own_data.plan(config, tasks=own_data.make_tasks(config, negatives=0))


if __name__ == "__main__":
    run(plan)
