"""What a language model is asked to write, by kind of task, in the spirit of Gemini Embedding (arXiv 2503.07891).

A seed is a real content: a passage, a function, a table, a label, a picture. A kind says what to ask of it, and which
pair its answer makes.
"""

import dataclasses
import json
import re
from collections.abc import Callable

from embed.data.modalities import Content, Text

Answer = dict[str, str]  # the JSON object that the model was asked for


@dataclasses.dataclass(frozen=True)
class Seed:
    """A content to ask about; seeds of one group share a label, a module, a source: what is balanced."""

    id: str
    content: Content
    group: str
    lang: str = "en"


Pair = tuple[Content, Content, str]  # query, positive, label


@dataclasses.dataclass(frozen=True)
class SyntheticTask:
    """One kind of pair."""

    name: str
    task: str  # what the pair is to train, for the rater
    ask: str  # what stands before the seed
    fields: tuple[str, ...]  # of the answer
    pair: Callable[[Seed, Answer], Pair]


def _form(*fields: str) -> str:
    return f"Answer with one JSON object and nothing else: {json.dumps(dict.fromkeys(fields, '...'))}."


def _seed_answers(field: str) -> Callable[[Seed, Answer], Pair]:
    return lambda seed, answer: ((Text(answer[field]),), seed.content, "")


def _kind(
    name: str, task: str, ask: str, fields: tuple[str, ...], pair: Callable[[Seed, Answer], Pair]
) -> SyntheticTask:
    return SyntheticTask(name, task, f"{ask} {_form(*fields)}\n\n", fields, pair)


TASKS = {
    kind.name: kind
    for kind in (
        _kind(
            "retrieval",
            "search: the passage answers the query",
            "Write a query that somebody would type into a search engine and that the passage below answers. Use other "
            "words than the passage where you can, and ask for one thing that it says.",
            ("query",),
            _seed_answers("query"),
        ),
        _kind(
            "classification",
            "classification: the text belongs to the class",
            "Below is the name of a class. Imagine a person, what they want and how they talk; then write what this "
            "person would say or write so that it belongs to the class. Do not use the class's own words.",
            ("text",),
            lambda seed, answer: ((Text(answer["text"]),), seed.content, seed.group),
        ),
        _kind(
            "contest",
            "code retrieval: the function solves the problem",
            "Write the statement of a programming contest's problem that the function below solves: what is given, "
            "what is to be returned, and one limit. Do not name the function.",
            ("problem",),
            _seed_answers("problem"),
        ),
        _kind(
            "feedback",
            "code retrieval: the function is what the conversation asks for",
            "Put a mistake into the function below that a programmer could make, and write what they would ask about "
            "it, the broken code included. The function as it stands is the answer they need.",
            ("question",),
            _seed_answers("question"),
        ),
        _kind(
            "sql",
            "code retrieval: the query in SQL answers the question",
            "Write a question that the table below can answer, in words, and the query in SQL that answers it.",
            ("question", "sql"),
            lambda seed, answer: (
                (Text(f"{_text(seed)}\n{answer['question']}"),),
                (Text(answer["sql"]),),
                "",
            ),
        ),
        _kind(
            "caption",
            "image retrieval: the caption describes the picture",
            "Describe the picture below in one sentence, so that it could be found by it among a thousand others.",
            ("caption",),
            _seed_answers("caption"),
        ),
    )
}
RATE = (
    "Below are a query and an answer, to train {task}. Rate from 1 to 5 how well they fit: 5, nobody could doubt it; "
    "3, it fits but so would many others; 1, it does not. "
    'Answer with one JSON object and nothing else: {{"rating": n}}.\n\n'
)


def prompt(kind: SyntheticTask, seed: Seed) -> Content:
    """What the model is asked about a seed."""
    return (Text(kind.ask), *seed.content)


def rating_prompt(kind: SyntheticTask, query: Content, positive: Content) -> Content:
    """What the model is asked about a pair."""
    return (Text(RATE.format(task=kind.task) + "QUERY\n"), *query, Text("\n\nANSWER\n"), *positive)


def parse(reply: str, fields: tuple[str, ...]) -> Answer:
    """The JSON object in a reply, whatever stands around it. Raises ValueError where a field is missing or empty."""
    found = re.search(r"\{.*\}", reply, re.DOTALL)
    if found is None:
        raise ValueError("no JSON object in the reply")
    value = json.loads(found[0])
    if not isinstance(value, dict) or any(not str(value.get(field, "")).strip() for field in fields):
        raise ValueError(f"no JSON object with {', '.join(fields)} in the reply")
    return {field: str(value[field]).strip() for field in fields}


def _text(seed: Seed) -> str:
    return "\n".join(part.text for part in seed.content if isinstance(part, Text))
