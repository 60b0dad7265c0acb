"""Does masking candidates that score far above the positive, as likely false negatives, help? (Qwen3-Embedding)

Hypothesis: it changes little: equal contents are masked already, and these corpora have no other false negatives.
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
