"""The Python standard library as corpora: docstring and code, summary and text, question and page image.

The sources are parsed, not imported. A module, its submodules and its pure-Python twin are in one split, so the modules
of the test items are not in training.
"""

import ast
import collections
import dataclasses
import functools
import inspect
import pathlib
import random
import re
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator

from embed.data.modalities import Content, Image, Text
from embed.data.records import Record, content_hash
from embed.toy_corpora import pages
from embed.toy_corpora.splits import assign_split, stable_hash

EXCLUDED_FOLDERS = {
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "encodings",
    "lib2to3",
    "ensurepip",
    "turtledemo",
    "pydoc_data",
    "__pycache__",
}
FAMILY = {  # modules that repeat or implement another one, and share its split
    **{"_pyio": "io", "_pydecimal": "decimal", "_strptime": "time", "_collections_abc": "collections"},
    **{"ntpath": "os", "posixpath": "os", "genericpath": "os"},
    **{"sre_parse": "re", "sre_compile": "re", "sre_constants": "re"},
}
DEV, TEST = 0.08, 0.22  # shares of the module families
MAX_PER_MODULE = {
    "train": 300,
    "dev": 20,
    "test": 40,
}  # or tkinter would be half of a corpus
MAX_SOURCE, MAX_QUERY, MAX_TEXT = 1500, 400, 1500  # characters
QUESTIONS = (
    "What does {} do?",
    "How do I use {}?",
    "Which page documents {}?",
    "the documentation of {}",
    "Show me the reference for {}.",
    "python {}",
    "Can you explain {} to me?",
    "help with {}",
)


@dataclasses.dataclass(frozen=True)
class Item:
    """A documented module, class or function."""

    module: str  # dotted: "concurrent.futures"
    name: str  # inside the module: "Executor.submit"; "" for the module itself
    doc: str  # its docstring, dedented
    code: str  # the source of a function without its docstring; "" for a class or a module

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module

    @property
    def family(self) -> str:
        top = self.module.split(".")[0]
        return FAMILY.get(top, top)


Pair = tuple[Item, Content, Content]


def documented_items() -> tuple[Item, ...]:
    """List everything in the standard library that has a docstring, in a fixed shuffled order."""
    return _parse_stdlib()[0]


def undocumented_functions(split: str) -> Iterator[Item]:
    """Yield the functions and methods of a split without a docstring, not short, in a fixed shuffled order."""
    return (item for item in _parse_stdlib()[1] if _split(item) == split)


@functools.cache
def _parse_stdlib() -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Parse the standard library: (objects with a docstring, functions without one)."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    documented: dict[str, Item] = {}
    undocumented: list[Item] = []
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        if EXCLUDED_FOLDERS & set(parts) or any("-" in part for part in parts):
            continue
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        source = file.read_text(encoding="utf-8", errors="replace")
        lines, tree = source.split("\n"), ast.parse(source)  # split as the parser does: a form feed ends no line
        for item in _documented_in(tree, lines, module, ""):
            documented.setdefault(item.path, item)
        undocumented += _undocumented_in(tree, lines, module)
    return _shuffle(documented.values()), _shuffle(undocumented)


def _shuffle(items: Iterable[Item]) -> tuple[Item, ...]:
    """Order items by the hash of their path."""
    return tuple(sorted(items, key=lambda item: stable_hash(item.path)))


def _undocumented_in(tree: ast.Module, lines: list[str], module: str) -> Iterator[Item]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is None:
            assert node.end_lineno is not None
            code = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])).strip()
            is_usable = node.end_lineno - node.lineno >= 3 and len(code) <= MAX_SOURCE
            if is_usable and len(node.name) > 3 and not node.name.startswith("__"):
                yield Item(module, f"{node.name}:{node.lineno}", "", code)


def code_records(split: str) -> Iterator[Record]:
    """Yield (docstring, its function without the docstring)."""
    pairs: list[Pair] = [
        (item, (Text(_truncate(item.doc, MAX_QUERY)),), (Text(item.code),)) for item in documented_items() if item.code
    ]
    return _records("stdlib_code", split, pairs)


def text_records(split: str) -> Iterator[Record]:
    """Yield (first paragraph of a docstring, or first sentence of a single paragraph; the rest)."""
    pairs: list[Pair] = []
    for item in documented_items():
        summary, _, rest = item.doc.partition("\n\n")
        if not rest.strip():
            summary, _, rest = item.doc.replace(".\n", ". ").partition(". ")
        summary, rest = " ".join(summary.split()), _truncate(textwrap.dedent(rest).strip(), MAX_TEXT)
        if 20 <= len(summary) <= MAX_QUERY and len(rest) >= 50 and summary not in " ".join(rest.split()):
            pairs.append((item, (Text(summary),), (Text(rest),)))
    return _records("stdlib_text", split, pairs)


def document_records(split: str) -> Iterator[Record]:
    """Yield (question about a public object, its page)."""
    pairs: list[Pair] = []
    for item in documented_items():
        is_public = not any(part.startswith("_") for part in item.path.split("."))
        if is_public and item.name and pages.title_fits(item.module, item.name) and _split(item) == split:
            question = random.Random(item.path).choice(QUESTIONS).format(item.path)
            pairs.append((item, (Text(question),), (Image(pages.render_page(item.module, item.name, item.doc)),)))
    return _records("stdlib_document", split, pairs)


def title_records(split: str) -> Iterator[Record]:
    """Yield (name of an object, image of the name in a page's large type): teaches reading before pages."""
    pairs: list[Pair] = []
    for item in documented_items():
        if item.name and pages.title_fits(item.module, item.name) and _split(item) == split:
            pairs.append((item, (Text(item.path),), (Image(pages.render_title(item.module, item.name)),)))
    return _records("stdlib_titles", split, pairs)


def _split(item: Item) -> str:
    return assign_split(item.family, DEV, TEST)


def _records(dataset: str, split: str, pairs: list[Pair]) -> Iterator[Record]:
    """Yield the pairs of a split whose query and target are unique in the dataset.

    In training, the hard negative is the target of another item of the same family.
    """
    known: set[bytes] = set()
    families: dict[str, list[Pair]] = collections.defaultdict(list)
    for item, query, target in pairs:
        hashes = {content_hash(query).tobytes(), content_hash(target).tobytes()}
        if not hashes & known and _split(item) == split and len(families[item.family]) < MAX_PER_MODULE[split]:
            families[item.family].append((item, query, target))
        known |= hashes
    positions = [(members, i) for members in families.values() for i in range(len(members))]
    for members, i in sorted(positions, key=lambda position: stable_hash(position[0][position[1]][0].path)):
        item, query, target = members[i]
        sibling = members[(i + 1) % len(members)][2]
        negatives = (sibling,) if split == "train" and len(members) > 1 else ()
        yield Record(f"{dataset}/{item.path}", query, target, negatives, lang="en")


def _documented_in(node: ast.AST, lines: list[str], module: str, name: str) -> Iterator[Item]:
    """Yield the documented objects of a module or class, itself first, without functions inside functions."""
    assert isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    doc = inspect.cleandoc(ast.get_docstring(node) or "").strip()
    if len(doc) >= 20:
        code = _source(node, lines) if is_function else ""
        yield Item(module, name, doc, code)
    if not is_function:
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _documented_in(child, lines, module, f"{name}.{child.name}" if name else child.name)


def _source(node: ast.AST, lines: list[str]) -> str:
    """Return a function's source without its docstring; "" where nothing else would be left."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    doc = node.body[0]
    if len(node.body) == 1 or doc.lineno == node.lineno or node.body[1].lineno == doc.end_lineno:
        return ""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    source = lines[first - 1 : doc.lineno - 1] + lines[doc.end_lineno : node.end_lineno]
    return _truncate(textwrap.dedent("\n".join(source)).strip(), MAX_SOURCE)


def _truncate(text: str, max_chars: int) -> str:
    """Cut a text to at most `max_chars` characters, at the end of a line or a word."""
    if len(text) <= max_chars:
        return text
    return re.sub(r"\s+\S*$", "", text[:max_chars])
