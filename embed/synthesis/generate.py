"""Generate pairs from seeds, rate them, drop near duplicates and balance the groups; count what happens to each."""

import asyncio
import collections
import dataclasses
import itertools
import sys
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from embed.data.build.dedup import compute_signature, near_first_occurrence
from embed.data.records import Record
from embed.synthesis.llm import RefusedError, ReplyCache
from embed.synthesis.tasks import Seed, SyntheticTask, make_prompt, make_rating_prompt, parse_reply


@dataclasses.dataclass(frozen=True)
class GenerationPlan:
    """What to generate for one task."""

    task: SyntheticTask
    seeds: Sequence[Seed]
    max_records: int
    replies_per_seed: int = 1
    min_rating: int = 4  # 1 to 5
    max_similarity: float = 0.8  # Jaccard estimate of both sides; from there on, two records are near duplicates


@dataclasses.dataclass(frozen=True)
class RatedPair:
    """A generated record with its seed's group and the rating that the model gave it."""

    record: Record
    group: str
    rating: int


async def generate_records(
    plan: GenerationPlan, cache: ReplyCache, max_concurrent: int
) -> tuple[list[Record], dict[str, int]]:
    """Generate the records of a plan, the best rated of each group first; return them with counts of every outcome.

    At most `max_concurrent` prompts are in flight. Raises LLMError; a second call with the same cache then resumes.
    """
    jobs = list(itertools.product(plan.seeds, range(plan.replies_per_seed)))
    counts: collections.Counter[str] = collections.Counter(replies=len(jobs))
    semaphore = asyncio.Semaphore(max_concurrent)
    pairs: list[RatedPair] = []
    with tqdm(total=len(jobs), desc=plan.task.name, unit="reply", disable=not sys.stderr.isatty()) as bar:

        async def run_job(seed: Seed, number: int) -> RatedPair | str:
            async with semaphore:
                outcome = await _generate_pair(plan, cache, seed, number)
            bar.update()
            return outcome

        chunk = 16 * max_concurrent  # bounds the number of asyncio tasks
        for start in range(0, len(jobs), chunk):
            for outcome in await asyncio.gather(*(run_job(*job) for job in jobs[start : start + chunk])):
                if isinstance(outcome, str):
                    counts[outcome] += 1
                else:
                    pairs.append(outcome)
            tokens_in, tokens_out = cache.total_tokens()
            bar.set_postfix_str(f"{tokens_in:,} tokens in, {tokens_out:,} out", refresh=False)
    distinct = _drop_near_duplicates(pairs, plan.max_similarity)
    selected = _balance_groups(distinct, plan.max_records)
    counts["near duplicates"] = len(pairs) - len(distinct)
    counts["over the limit"] = len(distinct) - len(selected)
    counts["records"] = len(selected)
    return [pair.record for pair in selected], dict(counts)


async def _generate_pair(plan: GenerationPlan, cache: ReplyCache, seed: Seed, number: int) -> RatedPair | str:
    """Generate and rate the pair of a seed's reply `number`; return why there is none otherwise."""
    task = plan.task
    try:
        reply = await cache(make_prompt(task, seed), number)
    except RefusedError:
        return "refused"
    try:
        query, positive, label = task.make_pair(seed, parse_reply(reply.text, task.fields))
    except ValueError:
        return "malformed"
    try:
        rating_reply = await cache(make_rating_prompt(task, query, positive))
        rating = int(float(parse_reply(rating_reply.text, ("rating",))["rating"]))
    except (RefusedError, ValueError):
        return "not rated"
    if rating < plan.min_rating:
        return "rated low"
    provenance = {"seed": seed.id, "prompt": task.instruction, "model": cache.model, "rating": str(rating)}
    record_id = f"{task.name}/{seed.id}/{number}"
    return RatedPair(Record(record_id, query, positive, (), seed.lang, label, provenance), seed.group, rating)


def _drop_near_duplicates(pairs: list[RatedPair], max_similarity: float) -> list[RatedPair]:
    """Keep the first of the pairs that are near duplicates on both sides."""
    if not pairs:
        return []
    signatures = [[compute_signature(side) for side in (pair.record.query, pair.record.positive)] for pair in pairs]
    is_first = near_first_occurrence(np.array(signatures), max_similarity)
    return [pair for pair, first in zip(pairs, is_first, strict=True) if first]


def _balance_groups(pairs: list[RatedPair], max_records: int) -> list[RatedPair]:
    """Take up to `max_records` pairs from the groups in turn, the best rated of each first."""
    groups: dict[str, list[RatedPair]] = collections.defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: -pair.rating):
        groups[pair.group].append(pair)
    rounds = itertools.zip_longest(*groups.values())
    return [pair for round_ in rounds for pair in round_ if pair is not None][:max_records]
