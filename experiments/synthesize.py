"""Training pairs that a language model writes about real contents, rated by it, without near duplicates, balanced.

Kinds and prompts are in embed/synthesis/tasks.py. Without an ENDPOINT a place-holder answers
by grammar, on this machine: the loop as it is, in wooden English. Every reply is kept: a stopped run goes on, and asks
and pays for nothing twice.
  run   python -m experiments.synthesize
  then  python -m experiments.own_data --config.pairs=runs/synthetic
"""

import asyncio
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import logging
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from embed.data.records import to_bytes
from embed.data.sources import open_split, write_shards
from embed.distributed import hosts, storage
from embed.model.presets import PRESETS
from embed.synthesis import llm, offline, seeds
from embed.synthesis.generate import GenerationPlan, generate_records
from embed.synthesis.tasks import TASKS, Seed
from embed.toy_corpora import synthetic
from embed.training.config_check import ConfigError
from embed.training.main import run
from embed.training.prepare import prepare_preprocessor

log = logging.getLogger(__name__)
NAME = "synthetic"
ENDPOINT = ""  # "http://localhost:8000/v1", say, of vLLM; key in $OPENAI_API_KEY
MODEL = offline.MODEL
PRICE = 0.0, 0.0  # dollars for a million tokens in, out
PARALLEL = 16  # questions under way
SEEDS, KEPT = 400, 250  # of each kind
DATASETS = {"code": ("contest", "feedback", "sql"), "text": ("retrieval", "classification"), "image": ("caption",)}


def chosen(data: storage.Path) -> dict[str, Iterator[Seed]]:
    """What is asked about, for each kind."""
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


async def pairs(replies: llm.ReplyCache, found: dict[str, Iterator[Seed]], out: storage.Path) -> None:
    """Writes every dataset, and beside it what became of the answers."""
    for name, kinds in DATASETS.items():
        records, counts = [], {}
        for kind in kinds:
            plan = GenerationPlan(TASKS[kind], list(itertools.islice(found[kind], SEEDS)), KEPT)
            made, counts[kind] = await generate_records(plan, replies, PARALLEL)
            records += made
            print(f"{name}: {kind}: " + ", ".join(f"{count:,} {what}" for what, count in counts[kind].items()))
        write_shards(out / name, "train", map(to_bytes, records))
        (out / name / "counts.json").write_text(json.dumps(counts, indent=1))


def main(config: ConfigDict) -> None:
    if importlib.util.find_spec("openai") is None:
        raise ConfigError("asking a model needs openai, of the extra [synthesis]: pip install -e '.[synthesis]'")
    data, out = storage.path(config.data), storage.path(config.workdir) / NAME
    prepare_preprocessor(PRESETS[config.model], data)
    if not hosts.is_primary():
        return
    with contextlib.ExitStack() as stack:
        url = ENDPOINT or stack.enter_context(offline.serve()) + "/v1"
        path = pathlib.Path(storage.absolute(out)) / "replies.jsonl"
        replies = llm.ReplyCache(path, llm.connect_openai(url, MODEL), MODEL)
        asyncio.run(pairs(replies, chosen(data), out))
    spent = replies.total_tokens()
    cost = sum(tokens * price / 1e6 for tokens, price in zip(spent, PRICE, strict=True))
    print(
        f"{replies.num_sent:,} questions asked now; {spent[0]:,} tokens in, {spent[1]:,} out, {cost:.2f} dollars in all"
    )


if __name__ == "__main__":
    run(main)
