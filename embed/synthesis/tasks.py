"""The tasks that a language model writes pairs for, after Gemini Embedding (arXiv 2503.07891).

A seed is a real content: a passage, a function, a table, a label, an image. A task has an instruction for the model,
and a function that makes a pair of the seed and the model's answer.
"""

import dataclasses
import json
import re
from collections.abc import Callable

from embed.data.modalities import Content, Text

Answer = dict[str, str]  # the fields of the JSON object in a reply


@dataclasses.dataclass(frozen=True)
class Seed:
    """A content to write about. Groups (a label, a module, a language) are balanced among the records."""

    id: str
    content: Content
    group: str
    lang: str = "en"


Pair = tuple[Content, Content, str]  # query, positive, label


@dataclasses.dataclass(frozen=True)
class SyntheticTask:
    """A kind of pair to write."""

    name: str
    description: str  # what the pair trains; in the rating prompt
    instruction: str  # precedes the seed in the prompt
    fields: tuple[str, ...]  # of the answer
    make_pair: Callable[[Seed, Answer], Pair]


def _reply_format(*fields: str) -> str:
    return f"Answer with one JSON object and nothing else: {json.dumps(dict.fromkeys(fields, '...'))}."


def _seed_is_positive(field: str) -> Callable[[Seed, Answer], Pair]:
    return lambda seed, answer: ((Text(answer[field]),), seed.content, "")


def _make_task(
    name: str, description: str, instruction: str, fields: tuple[str, ...], make_pair: Callable[[Seed, Answer], Pair]
) -> SyntheticTask:
    return SyntheticTask(name, description, f"{instruction} {_reply_format(*fields)}\n\n", fields, make_pair)


TASKS = {
    task.name: task
    for task in (
        _make_task(
            "retrieval",
            "search: the passage answers the query",
            "Write a query that somebody would type into a search engine and that the passage below answers. Use other "
            "words than the passage where you can, and ask for one thing that it says.",
            ("query",),
            _seed_is_positive("query"),
        ),
        _make_task(
            "classification",
            "classification: the text belongs to the class",
            "Below is the name of a class. Imagine a person, what they want and how they talk; then write what this "
            "person would say or write so that it belongs to the class. Do not use the class's own words.",
            ("text",),
            lambda seed, answer: ((Text(answer["text"]),), seed.content, seed.group),
        ),
        _make_task(
            "contest",
            "code retrieval: the function solves the problem",
            "Write the statement of a programming contest's problem that the function below solves: what is given, "
            "what is to be returned, and one limit. Do not name the function.",
            ("problem",),
            _seed_is_positive("problem"),
        ),
        _make_task(
            "feedback",
            "code retrieval: the function is what the conversation asks for",
            "Put a mistake into the function below that a programmer could make, and write what they would ask about "
            "it, the broken code included. The function as it stands is the answer they need.",
            ("question",),
            _seed_is_positive("question"),
        ),
        _make_task(
            "sql",
            "code retrieval: the query in SQL answers the question",
            "Write a question that the table below can answer, in words, and the query in SQL that answers it.",
            ("question", "sql"),
            lambda seed, answer: (
                (Text(f"{_seed_text(seed)}\n{answer['question']}"),),
                (Text(answer["sql"]),),
                "",
            ),
        ),
        _make_task(
            "caption",
            "image retrieval: the caption describes the picture",
            "Describe the picture below in one sentence, so that it could be found by it among a thousand others.",
            ("caption",),
            _seed_is_positive("caption"),
        ),
    )
}
RATING_INSTRUCTION = (
    "Below are a query and an answer, to train {task}. Rate from 1 to 5 how well they fit: 5, nobody could doubt it; "
    "3, it fits but so would many others; 1, it does not. "
    'Answer with one JSON object and nothing else: {{"rating": n}}.\n\n'
)


def make_prompt(task: SyntheticTask, seed: Seed) -> Content:
    """Make the prompt that asks for a pair."""
    return (Text(task.instruction), *seed.content)


def make_rating_prompt(task: SyntheticTask, query: Content, positive: Content) -> Content:
    """Make the prompt that asks for a rating of a pair."""
    return (Text(RATING_INSTRUCTION.format(task=task.description) + "QUERY\n"), *query, Text("\n\nANSWER\n"), *positive)


def parse_reply(reply: str, fields: tuple[str, ...]) -> Answer:
    """Parse the JSON object in a reply, ignoring text around it. Raises ValueError for a missing or empty field."""
    match = re.search(r"\{.*\}", reply, re.DOTALL)
    if match is None:
        raise ValueError("no JSON object in the reply")
    value = json.loads(match[0])
    if not isinstance(value, dict) or any(not str(value.get(field, "")).strip() for field in fields):
        raise ValueError(f"no JSON object with {', '.join(fields)} in the reply")
    return {field: str(value[field]).strip() for field in fields}


def _seed_text(seed: Seed) -> str:
    return "\n".join(part.text for part in seed.content if isinstance(part, Text))
