"""Seeds for `python -m embed synthesize` from the toy corpora."""

import dataclasses
import itertools
from collections.abc import Iterator

from embed.data.sources import open_split
from embed.distributed import storage
from embed.synthesis import seeds
from embed.synthesis.tasks import Seed
from embed.toy_corpora import synthetic


def read_seeds(data: storage.Path) -> dict[str, Iterator[Seed]]:
    """Return the seeds of each synthesis task, from the corpora in `data` and the standard library."""
    labels = seeds.label_seeds(open_split(data / "scenes_labels", "train"))
    return {
        "contest": itertools.islice(synthetic.function_seeds("train"), 0, None, 2),
        "feedback": itertools.islice(synthetic.function_seeds("train"), 1, None, 2),
        "sql": synthetic.table_seeds("train"),
        "retrieval": seeds.passage_seeds(open_split(data / "stdlib_text", "train")),
        "classification": itertools.chain.from_iterable(
            (dataclasses.replace(seed, id=f"{seed.id}/{i}") for seed in labels) for i in itertools.count()
        ),
        "caption": seeds.image_seeds(open_split(data / "scenes_image", "train")),
    }
