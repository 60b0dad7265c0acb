"""Code retrieval that nobody wrote: problems, complaints and questions about real functions and made-up tables.

Written by the loop of `embed/synthesis` with a grammar in the place of a language model, from functions that the other
corpora leave out: they have no docstring. `experiments/synthesize.py` does the same with a model.
"""

import asyncio
import dataclasses
import itertools
import pathlib
import tempfile
from collections.abc import Iterable, Iterator

from embed.data.modalities import Content, Image, Text
from embed.data.records import Record
from embed.synthesis import grammar, seeds
from embed.synthesis.ask import Refused, Replies, Reply
from embed.synthesis.kinds import TASKS, Seed
from embed.synthesis.loop import Plan, write

SEEDS, KEPT = 1600, 1000  # functions of each kind that are asked about; records of each kind
TABLES, KEPT_TABLES = 400, 200


def code(split: str) -> Iterator[Record]:
    """Statement of a problem, or complaint about a broken function -> the function; question about a table -> SQL."""
    found = list(itertools.islice(seeds.functions(split), 2 * SEEDS))
    plans = [
        _plan("contest", found[::2], KEPT),
        _plan("feedback", found[1::2], KEPT),
        _plan("sql", itertools.islice(seeds.tables(split), TABLES), KEPT_TABLES),
    ]
    with tempfile.TemporaryDirectory() as folder:
        replies = Replies(pathlib.Path(folder) / "replies.jsonl", ask, "grammar")
        for plan in plans:
            records, _ = asyncio.run(write(plan, replies, parallel=1))
            yield from (dataclasses.replace(record, id=f"synthetic_code/{record.id}") for record in records)


def _plan(kind: str, chosen: Iterable[Seed], keep: int) -> Plan:
    return Plan(TASKS[kind], list(chosen), keep)


async def ask(prompt: Content, number: int) -> Reply:
    """The grammar's answer, without a server. Raises ask.Refused."""
    text = "".join(part.text for part in prompt if isinstance(part, Text))
    try:
        return Reply(grammar.answer(text, [part.data for part in prompt if isinstance(part, Image)], number), 0, 0)
    except (ValueError, SyntaxError) as error:
        raise Refused(str(error)) from error
