"""Does pre-fine-tuning pay before fine-tuning on your datasets? Here training starts from WORKDIR/prefinetune.

Hypothesis: no on datasets that are trained on, whose pairs teach the same; yes on those that are not.
"""

import dataclasses

from embed.distributed import storage
from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import finetune, own_data


def plan(config, **changes):
    require_foundation(config)
    parent = own_data.plan(config, **changes)
    return dataclasses.replace(parent, init=storage.path(config.workdir) / finetune.START)


if __name__ == "__main__":
    run(plan)
