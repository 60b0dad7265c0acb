"""Names and sentences are the field's: what a reader would not search for stays out of the code and the prose."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CODE = sorted(path for room in ("embed", "experiments", "launch", "benchmarks") for path in (ROOT / room).rglob("*.py"))
PROSE = [*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").glob("*.md") if path.name != "log.md")]
# Words that name nothing, as identifiers.
EMPTY = "found one own there made told kind said each both whole late nobody here asked heard seen"
# Words of this project alone, whose standard is in parentheses in CONTRIBUTING.md.
PRIVATE = (
    "rivals meet meeting travellers residents onwards leads leader_first grouped ungrouped slots banded sandwich "
    "unbounded halve widen locals theta at_peak patiently as_found sharp layout film taken_for firsts alike "
    "lay_out colour"
)
BANNED = frozenset(f"{EMPTY} {PRIVATE}".split())
PHRASES = re.compile(
    r"what is not there|is moved aside|and said\b|was at hand|a row a |of what it has|loses? by it|falls short"
    r"|mean of \d+ numbers|nobody wrote|it is heard|are seen; given",
    re.IGNORECASE,
)


def names_of(tree: ast.AST) -> list[tuple[str, int]]:
    """(name, line) of everything that a module defines: variables, arguments, functions, classes, fields."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.append((node.id, node.lineno))
        elif isinstance(node, ast.arg):
            found.append((node.arg, node.lineno))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append((node.name, node.lineno))
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_the_fields(path):
    banned = [(name, line) for name, line in names_of(ast.parse(path.read_text())) if name.strip("_") in BANNED]
    assert banned == []


@pytest.mark.parametrize("path", [*CODE, *PROSE], ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_are_plain(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [(number, line) for number, line in enumerate(lines, 1) if PHRASES.search(line)] == []


def test_the_lint_finds_what_it_bans():
    tree = ast.parse("def seen(rivals, *, k=1):\n    found = [one for one in near]\n    return found\n")
    assert {name for name, _ in names_of(tree)} & BANNED == {"seen", "rivals", "found", "one"}
    assert PHRASES.search("| mean of 32 numbers |") and PHRASES.search("That Loses by it.")
