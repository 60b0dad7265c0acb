"""Must all layers of a foundation model be trained? Here the lower two thirds are frozen, without a backward pass.

Hypothesis: a point or two is lost, for half of the time and memory of a step.
"""

import dataclasses
import functools

from embed.model import freezing
from embed.training.main import run
from embed.training.pretrained import require_foundation
from experiments import own_data


def plan(config):
    arch = require_foundation(config).arch
    groups = min(2 * arch.layer_groups // 3, arch.layer_groups - arch.shared_kv_groups - 1)
    freeze = functools.partial(freezing.freeze_lower, groups=groups)
    return dataclasses.replace(own_data.plan(config), init_transform=freeze, trainable=freezing.is_upper)


if __name__ == "__main__":
    run(plan)
