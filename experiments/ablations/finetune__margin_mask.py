"""Does leaving out candidates that score far above the positive help, as likely false negatives? (Qwen3-Embedding)

Hypothesis: it changes little: here equal contents are masked already, and no other false negatives are left.
"""

import dataclasses

from embed.batch import Candidates
from embed.training.main import run
from experiments import finetune

RULE = Candidates(symmetric=True, margin=0.1)


def plan(config):
    parent = finetune.plan(config)
    return dataclasses.replace(parent, tasks=[dataclasses.replace(task, candidates=RULE) for task in parent.tasks])


if __name__ == "__main__":
    run(plan)
