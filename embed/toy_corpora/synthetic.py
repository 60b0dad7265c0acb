"""Synthetic code retrieval: problems, bug reports and questions about real functions and made-up tables.

`embed/synthesis` writes them, with its grammar as the language model, from functions that no other corpus uses: those
without a docstring. `python -m embed synthesize` does the same with a language model.
"""

import asyncio
import dataclasses
import itertools
import pathlib
import random
import tempfile
from collections.abc import Iterable, Iterator

from embed.data.modalities import Content, Image, Text
from embed.data.records import Record
from embed.synthesis import grammar
from embed.synthesis.generate import GenerationPlan, generate_records
from embed.synthesis.llm import RefusedError, Reply, ReplyCache
from embed.synthesis.tasks import TASKS, Seed
from embed.toy_corpora import stdlib
from embed.toy_corpora.splits import assign_split

NUM_FUNCTIONS, MAX_RECORDS = 1600, 1000  # of each task about functions
NUM_TABLES, MAX_TABLE_RECORDS = 400, 200
TABLE_NAMES = ["orders", "books", "players", "flights", "cities", "courses", "recipes", "songs", "patients", "tickets"]
TEXT_COLUMNS = ["name", "city", "author", "colour", "category", "country", "status", "owner", "title", "language"]
NUMBER_COLUMNS = ["price", "age", "year", "score", "distance", "weight", "rating", "stock", "duration", "level"]


def code_records(split: str) -> Iterator[Record]:
    """Yield (problem or question about a broken function, the function) and (question about a table, SQL)."""
    functions = list(itertools.islice(function_seeds(split), 2 * NUM_FUNCTIONS))
    plans = [
        _make_plan("contest", functions[::2], MAX_RECORDS),
        _make_plan("feedback", functions[1::2], MAX_RECORDS),
        _make_plan("sql", itertools.islice(table_seeds(split), NUM_TABLES), MAX_TABLE_RECORDS),
    ]
    with tempfile.TemporaryDirectory() as folder:
        cache = ReplyCache(pathlib.Path(folder) / "replies.jsonl", reply_by_grammar, "grammar")
        for plan in plans:
            records, _ = asyncio.run(generate_records(plan, cache, max_concurrent=1))
            yield from (dataclasses.replace(record, id=f"synthetic_code/{record.id}") for record in records)


def _make_plan(task: str, seeds: Iterable[Seed], max_records: int) -> GenerationPlan:
    return GenerationPlan(TASKS[task], list(seeds), max_records)


def function_seeds(split: str) -> Iterator[Seed]:
    """Yield the standard library's functions without a docstring; their group is their module."""
    for item in stdlib.undocumented_functions(split):
        yield Seed(item.path, (Text(item.code),), item.module)


def table_seeds(split: str) -> Iterator[Seed]:
    """Yield schemas of made-up tables without end; their group is the table's name, which is in one split only."""
    names = [name for name in TABLE_NAMES if assign_split(name, 0.1, 0.2) == split]
    for number in itertools.count() if names else ():
        rng = random.Random(f"{split} {number}")
        name = names[number % len(names)]
        texts = rng.sample(TEXT_COLUMNS, 2)
        numbers = rng.sample(NUMBER_COLUMNS, 2)
        columns = ["id INTEGER", *(f"{text} TEXT" for text in texts), *(f"{number} INTEGER" for number in numbers)]
        yield Seed(f"{name}{number}", (Text(f"CREATE TABLE {name} ({', '.join(columns)})"),), name)


async def reply_by_grammar(prompt: Content, number: int) -> Reply:
    """Reply with `grammar`, without a server. Raises RefusedError."""
    text = "".join(part.text for part in prompt if isinstance(part, Text))
    images = [part.data for part in prompt if isinstance(part, Image)]
    try:
        return Reply(grammar.write_reply(text, images, number), 0, 0)
    except (ValueError, SyntaxError) as error:
        raise RefusedError(str(error)) from error
