"""The datasets that `python -m embed synthesize` writes: each a few of the tasks of `tasks`."""

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
    cache: ReplyCache,
    seeds: Mapping[str, Iterator[Seed]],
    out: storage.Path,
    *,
    num_seeds: int,
    max_records: int,
    max_concurrent: int,
) -> None:
    """Write OUT/NAME for every dataset, with counts.json: the outcomes of each task's replies.

    seeds: an iterator for each task, of which the first `num_seeds` are used.
    max_records: per task.
    max_concurrent: prompts in flight.

    Raises LLMError where the model cannot be reached.
    """
    for name, tasks in DATASETS.items():
        records, counts = [], {}
        for task in tasks:
            plan = GenerationPlan(TASKS[task], list(itertools.islice(seeds[task], num_seeds)), max_records)
            task_records, counts[task] = await generate_records(plan, cache, max_concurrent)
            records += task_records
            outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in counts[task].items())
            log.info("%s: %s: %s", name, task, outcomes)
        write_shards(out / name, "train", map(to_bytes, records))
        (out / name / "counts.json").write_text(json.dumps(counts, indent=1))


def format_cost(cache: ReplyCache, prices: Sequence[float]) -> str:
    """Summarize prompts, tokens and cost in one line; `prices` are dollars per million tokens in and out."""
    tokens_in, tokens_out = cache.total_tokens()
    cost = (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6
    sent = f"{cache.num_sent:,} prompts sent now"
    return f"{sent}; {tokens_in:,} tokens in, {tokens_out:,} out, {cost:.2f} dollars in all"
