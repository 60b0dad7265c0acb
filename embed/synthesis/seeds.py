"""Real contents to ask a language model about."""

import itertools
import random
from collections.abc import Iterator

from embed.data.modalities import Image, Text
from embed.data.sources import Source
from embed.synthesis.kinds import Seed
from embed.toy_corpora import stdlib

THINGS = ["orders", "books", "players", "flights", "cities", "courses", "recipes", "songs", "patients", "tickets"]
TEXTS = ["name", "city", "author", "colour", "category", "country", "status", "owner", "title", "language"]
NUMBERS = ["price", "age", "year", "score", "distance", "weight", "rating", "stock", "duration", "level"]


def functions(split: str) -> Iterator[Seed]:
    """Functions of the standard library that have no docstring, by module."""
    for item in stdlib.undocumented(split):
        yield Seed(item.path, (Text(item.code),), item.module)


def tables(split: str) -> Iterator[Seed]:
    """Schemas of made-up tables, by what they hold; a thing is on one side of the split."""
    own = [thing for thing in THINGS if stdlib.by_share(thing, 0.1, 0.2) == split]
    for number in itertools.count() if own else ():
        rng = random.Random(f"{split} {number}")
        thing = own[number % len(own)]
        texts, numbers = (rng.sample(names, 2) for names in (TEXTS, NUMBERS))
        columns = ["id INTEGER", *(f"{name} TEXT" for name in texts), *(f"{name} INTEGER" for name in numbers)]
        yield Seed(f"{thing}{number}", (Text(f"CREATE TABLE {thing} ({', '.join(columns)})"),), thing)


def passages(source: Source) -> Iterator[Seed]:
    """The texts that answer something in a dataset."""
    for i in range(len(source)):
        record = source[i]
        if all(isinstance(part, Text) for part in record.positive):
            yield Seed(record.id, record.positive, record.lang, record.lang)


def pictures(source: Source) -> Iterator[Seed]:
    """The images that answer something in a dataset."""
    for i in range(len(source)):
        record = source[i]
        if len(record.positive) == 1 and isinstance(record.positive[0], Image):
            yield Seed(record.id, record.positive, "", "en")


def labels(source: Source) -> list[Seed]:
    """The classes of a dataset, by the words that stand for them."""
    found = {source[i].label: source[i] for i in range(len(source))}
    return [Seed(label, record.positive, label, record.lang) for label, record in found.items() if label]
