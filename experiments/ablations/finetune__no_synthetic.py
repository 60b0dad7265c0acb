"""What does synthetic code retrieval buy? Here the task of generated pairs is left out (report, Table 5).

Hypothesis: code tasks lose, the others gain a little from its steps.
"""

from embed.training.main import run
from experiments import finetune


def plan(config):
    return finetune.plan(config, tasks=[task for task in finetune.TASKS if task.name != "synthetic_code"])


if __name__ == "__main__":
    run(plan)
