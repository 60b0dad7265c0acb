"""What does a batch eight times as large buy on your datasets?

Hypothesis: a little everywhere: more targets to tell apart. Where labels are few, the mask leaves out most of them.
"""

from embed.training.main import run
from experiments import own_data


def plan(config, **changes):
    return own_data.plan(config, batch=256, **changes)


if __name__ == "__main__":
    run(plan)
