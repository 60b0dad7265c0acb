"""Generate, rate, deduplicate, balance: from seeds to records, each step counted."""

import asyncio
import collections
import dataclasses
import itertools
import sys
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from embed.data.build.dedup import near_first_occurrence, signature
from embed.data.records import Record
from embed.synthesis.ask import Refused, Replies
from embed.synthesis.kinds import Seed, SyntheticTask, parse, prompt, rating_prompt


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be written of one kind."""

    kind: SyntheticTask
    seeds: Sequence[Seed]
    keep: int  # records at most
    answers: int = 1  # to each seed
    least: int = 4  # rating of what is kept, 1 to 5
    alike: float = 0.8  # share in common of both sides, above which two records are one


@dataclasses.dataclass(frozen=True)
class Written:
    """A pair and what the rater said of it."""

    record: Record
    group: str
    rating: int


async def write(plan: Plan, replies: Replies, parallel: int) -> tuple[list[Record], dict[str, int]]:
    """The records of a plan, the best rated of each group first, and what became of every answer.

    At most `parallel` questions are under way at a time. Raises ask.AskError, after which the same call goes on.
    """
    jobs = list(itertools.product(plan.seeds, range(plan.answers)))
    counts: collections.Counter[str] = collections.Counter(answers=len(jobs))
    gate, found = asyncio.Semaphore(parallel), []
    with tqdm(total=len(jobs), desc=plan.kind.name, unit="answer", disable=not sys.stderr.isatty()) as bar:

        async def one(seed: Seed, number: int) -> Written | str:
            async with gate:
                made = await _one(plan, replies, seed, number)
            bar.update()
            return made

        for start in range(0, len(jobs), 16 * parallel):  # not a task for each of a million
            for made in await asyncio.gather(*(one(*job) for job in jobs[start : start + 16 * parallel])):
                if isinstance(made, str):
                    counts[made] += 1
                else:
                    found.append(made)
            sizes = replies.tokens()
            bar.set_postfix_str(f"{sizes[0]:,} tokens in, {sizes[1]:,} out", refresh=False)
    kept = _distinct(found, plan.alike)
    counts["alike"] = len(found) - len(kept)
    chosen = _balanced(kept, plan.keep)
    counts["over the number"] = len(kept) - len(chosen)
    counts["kept"] = len(chosen)
    return [one.record for one in chosen], dict(counts)


async def _one(plan: Plan, replies: Replies, seed: Seed, number: int) -> Written | str:
    """A rated pair, or why there is none."""
    kind = plan.kind
    try:
        asked = await replies(prompt(kind, seed), number)
    except Refused:
        return "refused"
    try:
        query, positive, label = kind.pair(seed, parse(asked.text, kind.fields))
    except ValueError:
        return "without the form asked for"
    try:
        rating = int(float(parse((await replies(rating_prompt(kind, query, positive))).text, ("rating",))["rating"]))
    except (Refused, ValueError):
        return "not rated"
    if rating < plan.least:
        return "rated low"
    told = {"seed": seed.id, "prompt": kind.ask, "model": replies.model, "rating": str(rating)}
    name = f"{kind.name}/{seed.id}/{number}"
    return Written(Record(name, query, positive, (), seed.lang, label, told), seed.group, rating)


def _distinct(found: list[Written], alike: float) -> list[Written]:
    if not found:
        return []
    sides = [[signature(side) for side in (one.record.query, one.record.positive)] for one in found]
    return [one for one, first in zip(found, near_first_occurrence(np.array(sides), alike), strict=True) if first]


def _balanced(found: list[Written], most: int) -> list[Written]:
    """At most so many, from the groups in turn, of each the best rated first."""
    groups: dict[str, list[Written]] = collections.defaultdict(list)
    for one in sorted(found, key=lambda one: -one.rating):
        groups[one.group].append(one)
    turns = itertools.zip_longest(*groups.values())
    return [one for turn in turns for one in turn if one is not None][:most]
