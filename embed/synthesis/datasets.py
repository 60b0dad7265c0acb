"""Training pairs that a language model writes about real contents: what `python -m embed synthesize` writes.

Kinds and prompts: embed/synthesis/tasks.py. Each pair is rated by the model; near duplicates are removed and groups
balanced.
"""

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence

from embed.data.records import to_bytes
from embed.data.writing import write_shards
from embed.distributed import storage
from embed.synthesis.generate import GenerationPlan, generate_records
from embed.synthesis.llm import ReplyCache
from embed.synthesis.tasks import TASKS, Seed

log = logging.getLogger(__name__)
DATASETS = {"code": ("contest", "feedback", "sql"), "text": ("retrieval", "classification"), "image": ("caption",)}


async def write_datasets(
    replies: ReplyCache,
    seeds: Mapping[str, Iterator[Seed]],
    out: storage.Path,
    *,
    num_seeds: int,
    keep: int,
    parallel: int,
) -> None:
    """Write OUT/NAME of every dataset, and in it counts.json: what became of the answers of each kind.

    `seeds` are the contents to write about, by kind. Of each kind the model is asked about `num_seeds` of them, with
    `parallel` questions at a time, and at most `keep` records are kept. Raises LLMError where the model cannot be
    reached.
    """
    for name, kinds in DATASETS.items():
        records, counts = [], {}
        for kind in kinds:
            plan = GenerationPlan(TASKS[kind], list(itertools.islice(seeds[kind], num_seeds)), keep)
            written, counts[kind] = await generate_records(plan, replies, parallel)
            records += written
            log.info("%s: %s: %s", name, kind, ", ".join(f"{n:,} {what}" for what, n in counts[kind].items()))
        write_shards(out / name, "train", map(to_bytes, records))
        (out / name / "counts.json").write_text(json.dumps(counts, indent=1))


def format_cost(replies: ReplyCache, prices: Sequence[float]) -> str:
    """Return a line of questions, tokens and cost; `prices` are dollars per million tokens in and out."""
    tokens_in, tokens_out = replies.total_tokens()
    cost = (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6
    questions = f"{replies.num_sent:,} questions asked now"
    return f"{questions}; {tokens_in:,} tokens in, {tokens_out:,} out, {cost:.2f} dollars in all"
