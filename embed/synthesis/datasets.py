"""Training pairs that a language model writes about real contents: what `python -m embed synthesize` writes.

Kinds and prompts: embed/synthesis/kinds.py. Each pair is rated by the model; near duplicates are removed and groups
balanced.
"""

import dataclasses
import itertools
import json
import logging
from collections.abc import Iterator, Sequence

from embed.data.records import to_bytes
from embed.data.sources import open_split, write_shards
from embed.distributed import storage
from embed.synthesis import seeds
from embed.synthesis.ask import Replies
from embed.synthesis.kinds import TASKS, Seed
from embed.synthesis.loop import Plan, write

log = logging.getLogger(__name__)
DATASETS = {"code": ("contest", "feedback", "sql"), "text": ("retrieval", "classification"), "image": ("caption",)}


def read_seeds(data: storage.Path) -> dict[str, Iterator[Seed]]:
    """Return the contents to write about, by kind, from the built-in corpora in `data`."""
    labels = seeds.labels(open_split(data / "scenes_labels", "train"))
    return {
        "contest": itertools.islice(seeds.functions("train"), 0, None, 2),
        "feedback": itertools.islice(seeds.functions("train"), 1, None, 2),
        "sql": seeds.tables("train"),
        "retrieval": seeds.passages(open_split(data / "stdlib_text", "train")),
        "classification": itertools.chain.from_iterable(
            (dataclasses.replace(seed, id=f"{seed.id}/{i}") for seed in labels) for i in itertools.count()
        ),
        "caption": seeds.pictures(open_split(data / "scenes_image", "train")),
    }


async def write_datasets(
    replies: Replies, data: storage.Path, out: storage.Path, *, num_seeds: int, keep: int, parallel: int
) -> None:
    """Write OUT/NAME of every dataset, and in it counts.json: what became of the answers of each kind.

    Of each kind the model is asked about `num_seeds` contents, with `parallel` questions at a time, and at most `keep`
    records are kept. Raises AskError where the model cannot be reached.
    """
    contents = read_seeds(data)
    for name, kinds in DATASETS.items():
        records, counts = [], {}
        for kind in kinds:
            plan = Plan(TASKS[kind], list(itertools.islice(contents[kind], num_seeds)), keep)
            written, counts[kind] = await write(plan, replies, parallel)
            records += written
            log.info("%s: %s: %s", name, kind, ", ".join(f"{n:,} {what}" for what, n in counts[kind].items()))
        write_shards(out / name, "train", map(to_bytes, records))
        (out / name / "counts.json").write_text(json.dumps(counts, indent=1))


def format_cost(replies: Replies, prices: Sequence[float]) -> str:
    """Return a line of questions, tokens and cost; `prices` are dollars per million tokens in and out."""
    tokens_in, tokens_out = replies.tokens()
    cost = (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6
    return (
        f"{replies.asked:,} questions asked now; {tokens_in:,} tokens in, {tokens_out:,} out, {cost:.2f} dollars in all"
    )
