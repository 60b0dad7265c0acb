"""The source of an experiment's program: what two versions must share to be the same experiment."""

import ast
import functools
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

PACKAGE = "experiments"


def program_source(plan: Callable[..., Any]) -> dict[str, str]:
    """Return the program of the file that defines `plan` and of every module of experiments/ that it imports,
    directly or through others: module name -> source without prose (`strip_prose`)."""
    plan = _undecorated(plan)
    file = plan_file(plan)
    package = getattr(sys.modules.get(plan.__module__), "__package__", None) or ""
    programs: dict[str, str] = {}
    waiting = [(file.stem, file, package)]
    while waiting:
        name, path, package = waiting.pop()
        if name not in programs:
            source = path.read_text(encoding="utf-8")
            programs[name] = strip_prose(source)
            for parent in sorted(set(imported_names(source, package))):
                spec = _find_spec(parent)
                if spec is not None and spec.origin and pathlib.Path(spec.origin).name != "__init__.py":
                    waiting.append((parent.rpartition(".")[2], pathlib.Path(spec.origin), parent.rpartition(".")[0]))
    return dict(sorted(programs.items()))


def plan_file(plan: Callable[..., Any]) -> pathlib.Path:
    """Return the file that defines `plan`, whose stem is the experiment's name."""
    return pathlib.Path(inspect.getfile(_undecorated(plan)))


def _undecorated(plan: Callable[..., Any]) -> Callable[..., Any]:
    """The function beneath decorators and functools.partial."""
    while isinstance(plan, functools.partial):
        plan = plan.func
    return inspect.unwrap(plan)


def imported_names(source: str, package: str) -> Iterator[str]:
    """Yield the dotted names below experiments/ that a program imports; a name may be a module's or in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.startswith(f"{PACKAGE}."))


def _find_spec(name: str) -> Any:
    """The spec of a module; None where the dotted name is of something in a module."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None


def strip_prose(source: str) -> str:
    """Return a program's text without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
