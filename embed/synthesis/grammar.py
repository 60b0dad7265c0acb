"""Answers to the prompts of `kinds` by grammar, in the place of a language model: no network, the same every time.

It reads Python as a parser does and knows the words that names are made of; it writes wooden English. One half of each
pair is real content.
"""

import ast
import json
import random
import re
from collections.abc import Callable

import numpy as np
from PIL import Image as Pillow

from embed.data.media.decode import decode_image
from embed.synthesis.kinds import RATE, TASKS

OPENINGS = (
    "Given {given}, {does}.",
    "You are given {given}. {Does}.",
    "Write a function that takes {given} and {does}.",
)
COMPLAINTS = (
    "My code to {does} does not work. What is wrong?\n\n{code}",
    "I wrote this and it gives wrong results:\n\n{code}\n\nIt should {does}.",
    "Please review. I want to {does}, but it breaks:\n\n{code}",
)
COLOURS = {"red": 0, "yellow": 60, "green": 120, "cyan": 180, "blue": 240, "pink": 300}


def answer(prompt: str, images: list[bytes], number: int) -> str:
    """A reply to one of the prompts of `kinds`, the same each time. Raises ValueError for any other prompt."""
    if prompt.startswith(RATE.split("{")[0]):
        query, _, positive = prompt.partition("QUERY\n")[2].partition("\n\nANSWER\n")
        return json.dumps({"rating": _rating(query, positive)})
    for name, kind in TASKS.items():
        if prompt.startswith(kind.ask):
            seed = prompt.removeprefix(kind.ask)
            rng = random.Random(f"{number} {prompt}")
            return json.dumps(WRITERS[name](seed, images, rng))
    raise ValueError("this place-holder answers the prompts of embed/synthesis/kinds.py alone")


def words(name: str) -> list[str]:
    """The words that an identifier is made of."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def _rating(query: str, positive: str) -> int:
    """By the share of the shorter side's words that both have."""
    sides = [{word for word in words(side) if len(word) > 2} for side in (query, positive)]
    fewer = min(map(len, sides))
    share = len(sides[0] & sides[1]) / fewer if fewer else 1.0  # a picture has no words
    return 1 + sum(share >= least for least in (0.02, 0.06, 0.12, 0.25))


def _function(code: str) -> tuple[str, list[str], list[str]]:
    """What a function does by its name, what it is given, and words for what it uses."""
    node = ast.parse(code).body[0]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        raise ValueError("not a function")
    given = [" ".join(words(arg.arg)) for arg in node.args.args if arg.arg not in ("self", "cls")]
    calls = [child.func for child in ast.walk(node) if isinstance(child, ast.Call)]
    used = [
        call.attr if isinstance(call, ast.Attribute) else call.id
        for call in calls
        if isinstance(call, ast.Attribute | ast.Name)
    ]
    return (
        " ".join(words(node.name)),
        [name for name in given if name],
        list(dict.fromkeys(" ".join(words(one)) for one in used)),
    )


def _does(code: str, rng: random.Random) -> tuple[str, str]:
    """(what is given, what is done) in words."""
    name, given, used = _function(code)
    used = [one for one in used if one and one != name]
    way = f", with {' and '.join(rng.sample(used, min(len(used), 2)))}" if used else ""
    result = ""
    if "yield" in code:
        result = " one after another"
    elif "raise" in code:
        result = ", refusing what is not valid"
    return " and ".join(given) or "nothing", f"{name}{result}{way}"


def _contest(code: str, _: list[bytes], rng: random.Random) -> dict[str, str]:
    given, does = _does(code, rng)
    text = rng.choice(OPENINGS).format(given=given, does=does, Does=does[:1].upper() + does[1:])
    return {"problem": f"{text} At most {rng.choice((100, 1000, 10**5))} items."}


def _feedback(code: str, _: list[bytes], rng: random.Random) -> dict[str, str]:
    does = _does(code, rng)[1]
    return {"question": rng.choice(COMPLAINTS).format(does=does, code=_broken(code, rng))}


def _broken(code: str, rng: random.Random) -> str:
    """The function with one mistake: a line less, a comparison turned, a name misspelt."""
    lines = code.splitlines()
    turned = [
        (i, a, b)
        for i, line in enumerate(lines)
        for a, b in ((" == ", " != "), (" < ", " > "), (" not ", " "), (" and ", " or "))
        if a in line
    ]
    if turned and rng.random() < 0.6:
        i, a, b = rng.choice(turned)
        lines[i] = lines[i].replace(a, b, 1)
    elif len(lines) > 3:
        del lines[rng.randrange(2, len(lines))]
    else:
        lines[-1] = re.sub(r"(\w)(\w)\b", r"\2\1", lines[-1], count=1)
    return "\n".join(lines)


def _sql(table: str, _: list[bytes], rng: random.Random) -> dict[str, str]:
    name, columns = re.findall(r"TABLE (\w+) \((.*)\)", table)[0]
    fields = [column.split() for column in columns.split(", ")]
    numbers = [field for field, kind in fields if kind == "INTEGER" and field != "id"]
    texts = [field for field, kind in fields if kind == "TEXT"]
    number, text = rng.choice(numbers), rng.choice(texts)
    least = rng.randrange(2, 100)
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
                "question": f"List the {text} of {name} whose {number} is over {least}.",
                "sql": f"SELECT {text} FROM {name} WHERE {number} > {least}",
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
    long = sorted({word for word in re.findall(r"[^\W\d_]{4,}", sentence.lower())}, key=len, reverse=True)[:4]
    asked = [word for word in re.findall(r"[^\W\d_]{4,}", sentence.lower()) if word in long]
    return {
        "query": rng.choice(("what about {}", "how does {} work", "when {}", "{} explained")).format(
            " ".join(dict.fromkeys(asked))
        )
    }


def _classification(label: str, _: list[bytes], rng: random.Random) -> dict[str, str]:
    person = rng.choice(("a student", "a clerk", "my neighbour", "someone in a hurry"))
    said = rng.choice(("I need help with {}", "can you do something about {}", "it is about {} again", "{} please"))
    return {"text": f"{said.format(' '.join(words(label)))}, says {person} number {rng.randrange(10**4)}"}


def _caption(_: str, images: list[bytes], rng: random.Random) -> dict[str, str]:
    """By what stands out from the background: its hue, and where it is."""
    pixels = decode_image(images[0]).astype(float)
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    apart = np.abs(pixels - ground).sum(axis=2)
    inside = apart > apart.max() / 2
    hue = np.asarray(Pillow.fromarray(np.uint8(pixels)).convert("HSV"), float)[..., 0][inside].mean() * 360 / 255
    name = min(COLOURS, key=lambda colour: abs((hue - COLOURS[colour] + 180) % 360 - 180))
    y, x = (places.mean() / size for places, size in zip(np.nonzero(inside), inside.shape, strict=True))
    where = f"{('top', 'middle', 'bottom')[min(int(3 * y), 2)]} {('left', 'centre', 'right')[min(int(3 * x), 2)]}"
    return {"caption": rng.choice(("something {} at the {}", "a {} thing in the {}")).format(name, where)}


WRITERS: dict[str, Callable[[str, list[bytes], random.Random], dict[str, str]]] = {
    "retrieval": _retrieval,
    "classification": _classification,
    "contest": _contest,
    "feedback": _feedback,
    "sql": _sql,
    "caption": _caption,
}
