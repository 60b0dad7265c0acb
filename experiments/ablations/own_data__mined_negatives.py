"""Are mined negatives better than those that came with your datasets? Here every query has one mined by a model.

Takes them from WORKDIR/mined: `python -m embed mine CHECKPOINT FOLDER --out WORKDIR/mined`.
Hypothesis: yes, where the model that mines is good; several points on datasets that came without.
"""

import dataclasses

from embed.distributed import storage
from embed.training.main import run
from experiments import own_data

COUNT = 1


def plan(config, count=COUNT):
    mined = config.copy_and_resolve_references()
    mined.pairs = str(storage.path(config.workdir) / "mined")
    parent = own_data.plan(config, tasks=own_data.make_tasks(mined, negatives=count))
    return dataclasses.replace(parent, data=storage.path(mined.pairs))


if __name__ == "__main__":
    run(plan)
