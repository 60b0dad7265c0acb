"""A deterministic stand-in for a language model: answers the prompts of `tasks` with templates, without a network.

It parses Python functions and splits identifiers into words; its English is stilted. One half of each pair is real
content.
"""

import ast
import json
import random
import re
from collections.abc import Callable

import numpy as np
from PIL import Image as Pillow

from embed.data.media.decode import decode_image
from embed.synthesis.tasks import RATING_INSTRUCTION, TASKS

PROBLEM_TEMPLATES = (
    "Given {given}, {does}.",
    "You are given {given}. {Does}.",
    "Write a function that takes {given} and {does}.",
)
QUESTION_TEMPLATES = (
    "My code to {does} does not work. What is wrong?\n\n{code}",
    "I wrote this and it gives wrong results:\n\n{code}\n\nIt should {does}.",
    "Please review. I want to {does}, but it breaks:\n\n{code}",
)
COLOR_HUES = {"red": 0, "yellow": 60, "green": 120, "cyan": 180, "blue": 240, "pink": 300}


def write_reply(prompt: str, images: list[bytes], number: int) -> str:
    """Reply to a prompt of `tasks`, always the same for one `number`. Raises ValueError for any other prompt."""
    if prompt.startswith(RATING_INSTRUCTION.split("{")[0]):
        query, _, positive = prompt.partition("QUERY\n")[2].partition("\n\nANSWER\n")
        return json.dumps({"rating": _rate(query, positive)})
    for name, task in TASKS.items():
        if prompt.startswith(task.instruction):
            seed = prompt.removeprefix(task.instruction)
            rng = random.Random(f"{number} {prompt}")
            return json.dumps(WRITERS[name](seed, images, rng))
    raise ValueError("the grammar answers the prompts of embed/synthesis/tasks.py only")


def split_identifier(name: str) -> list[str]:
    """Split an identifier, or a text, into lower-case words."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def _rate(query: str, positive: str) -> int:
    """Rate a pair, 1 to 5, by the share of the shorter side's words that the other side has too."""
    query_words, positive_words = (
        {word for word in split_identifier(side) if len(word) > 2} for side in (query, positive)
    )
    num_words = min(len(query_words), len(positive_words))
    overlap = len(query_words & positive_words) / num_words if num_words else 1.0  # an image has no words
    return 1 + sum(overlap >= threshold for threshold in (0.02, 0.06, 0.12, 0.25))


def _parse_function(code: str) -> tuple[str, list[str], list[str]]:
    """Parse a function: (its name, its parameters, the functions that it calls), in words."""
    node = ast.parse(code).body[0]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        raise ValueError("not a function")
    parameters = [" ".join(split_identifier(arg.arg)) for arg in node.args.args if arg.arg not in ("self", "cls")]
    calls = [child.func for child in ast.walk(node) if isinstance(child, ast.Call)]
    called = [
        call.attr if isinstance(call, ast.Attribute) else call.id
        for call in calls
        if isinstance(call, ast.Attribute | ast.Name)
    ]
    return (
        " ".join(split_identifier(node.name)),
        [name for name in parameters if name],
        list(dict.fromkeys(" ".join(split_identifier(name)) for name in called)),
    )


def _describe_function(code: str, rng: random.Random) -> tuple[str, str]:
    """Describe a function in words: (what it takes, what it does)."""
    name, parameters, called = _parse_function(code)
    called = [other for other in called if other and other != name]
    means = f", with {' and '.join(rng.sample(called, min(len(called), 2)))}" if called else ""
    result = ""
    if "yield" in code:
        result = " one after another"
    elif "raise" in code:
        result = ", refusing what is not valid"
    return " and ".join(parameters) or "nothing", f"{name}{result}{means}"


def _contest(code: str, _: list[bytes], rng: random.Random) -> dict[str, str]:
    given, does = _describe_function(code, rng)
    text = rng.choice(PROBLEM_TEMPLATES).format(given=given, does=does, Does=does[:1].upper() + does[1:])
    return {"problem": f"{text} At most {rng.choice((100, 1000, 10**5))} items."}


def _feedback(code: str, _: list[bytes], rng: random.Random) -> dict[str, str]:
    does = _describe_function(code, rng)[1]
    return {"question": rng.choice(QUESTION_TEMPLATES).format(does=does, code=_insert_bug(code, rng))}


def _insert_bug(code: str, rng: random.Random) -> str:
    """Put one bug into a function: flip a comparison, delete a line, or misspell a name."""
    lines = code.splitlines()
    flips = [
        (i, a, b)
        for i, line in enumerate(lines)
        for a, b in ((" == ", " != "), (" < ", " > "), (" not ", " "), (" and ", " or "))
        if a in line
    ]
    if flips and rng.random() < 0.6:
        i, a, b = rng.choice(flips)
        lines[i] = lines[i].replace(a, b, 1)
    elif len(lines) > 3:
        del lines[rng.randrange(2, len(lines))]
    else:
        lines[-1] = re.sub(r"(\w)(\w)\b", r"\2\1", lines[-1], count=1)
    return "\n".join(lines)


def _sql(table: str, _: list[bytes], rng: random.Random) -> dict[str, str]:
    name, columns = re.findall(r"TABLE (\w+) \((.*)\)", table)[0]
    typed_columns = [column.split() for column in columns.split(", ")]
    numbers = [column for column, dtype in typed_columns if dtype == "INTEGER" and column != "id"]
    texts = [column for column, dtype in typed_columns if dtype == "TEXT"]
    number, text = rng.choice(numbers), rng.choice(texts)
    threshold = rng.randrange(2, 100)
    return rng.choice(
        (
            {
                "question": f"How many {name} are there for each {text}?",
                "sql": f"SELECT {text}, COUNT(*) FROM {name} GROUP BY {text}",
            },
            {
                "question": f"Which {text} has the highest {number}?",
                "sql": f"SELECT {text} FROM {name} ORDER BY {number} DESC LIMIT 1",
            },
            {
                "question": f"List the {text} of {name} whose {number} is over {threshold}.",
                "sql": f"SELECT {text} FROM {name} WHERE {number} > {threshold}",
            },
            {
                "question": f"What is the average {number} by {text}?",
                "sql": f"SELECT {text}, AVG({number}) FROM {name} GROUP BY {text}",
            },
            {"question": f"The sum of {number} over all {name}, please.", "sql": f"SELECT SUM({number}) FROM {name}"},
        )
    )


def _retrieval(passage: str, _: list[bytes], rng: random.Random) -> dict[str, str]:
    sentence = rng.choice([part for part in re.split(r"(?<=[.!?])\s+", passage.strip()) if len(part) > 20] or [passage])
    longest = sorted({word for word in re.findall(r"[^\W\d_]{4,}", sentence.lower())}, key=len, reverse=True)[:4]
    keywords = [word for word in re.findall(r"[^\W\d_]{4,}", sentence.lower()) if word in longest]
    return {
        "query": rng.choice(("what about {}", "how does {} work", "when {}", "{} explained")).format(
            " ".join(dict.fromkeys(keywords))
        )
    }


def _classification(label: str, _: list[bytes], rng: random.Random) -> dict[str, str]:
    person = rng.choice(("a student", "a clerk", "my neighbour", "someone in a hurry"))
    request = rng.choice(("I need help with {}", "can you do something about {}", "it is about {} again", "{} please"))
    return {"text": f"{request.format(' '.join(split_identifier(label)))}, says {person} number {rng.randrange(10**4)}"}


def _caption(_: str, images: list[bytes], rng: random.Random) -> dict[str, str]:
    """Describe what stands out from the background: its hue and its position."""
    pixels = decode_image(images[0]).astype(float)
    background = np.median(pixels.reshape(-1, 3), axis=0)
    contrast = np.abs(pixels - background).sum(axis=2)
    mask = contrast > contrast.max() / 2
    hue = np.asarray(Pillow.fromarray(np.uint8(pixels)).convert("HSV"), float)[..., 0][mask].mean() * 360 / 255
    name = min(COLOR_HUES, key=lambda color: abs((hue - COLOR_HUES[color] + 180) % 360 - 180))
    rows, columns = np.nonzero(mask)
    y = rows.mean() / mask.shape[0]
    x = columns.mean() / mask.shape[1]
    position = f"{('top', 'middle', 'bottom')[min(int(3 * y), 2)]} {('left', 'centre', 'right')[min(int(3 * x), 2)]}"
    return {"caption": rng.choice(("something {} at the {}", "a {} thing in the {}")).format(name, position)}


WRITERS: dict[str, Callable[[str, list[bytes], random.Random], dict[str, str]]] = {
    "retrieval": _retrieval,
    "classification": _classification,
    "contest": _contest,
    "feedback": _feedback,
    "sql": _sql,
    "caption": _caption,
}
