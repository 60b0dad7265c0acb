"""The house stands: imports go down the list of rooms, never up and never round; private words stay out."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
# From the bottom up: a room may import itself and those before it.
ROOMS = (
    "distributed",
    "batch",
    "model",
    "losses",
    "data",
    "synthesis",
    "toy_corpora",
    "hf",
    "training",
    "embedder",
    "retrieval",
    "eval",
    "report",
    "commands",
    "__main__",
)


def imported_modules(path: pathlib.Path) -> set[str]:
    """Dotted names that a file imports from `embed`: modules, or names in a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("embed", "experiments")}


def modules() -> dict[str, pathlib.Path]:
    """Dotted name -> file, of every module of the package."""
    files = sorted((ROOT / "embed").rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def find_upward_imports(imports: dict[str, set[str]]) -> list[str]:
    """ "module -> imported" for every import of a room that lies higher than the module's own."""
    order = {room: number for number, room in enumerate(ROOMS)}
    upward = []
    for module, names in imports.items():
        if module == "embed":
            continue  # its lazy Embedder
        for name in names:
            target = name.split(".")[1] if name.startswith("embed.") else "experiments"
            if order.get(target, len(order)) > order[module.split(".")[1]]:
                upward.append(f"{module} -> {name}")
    return sorted(upward)


def find_cycle(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle, the first repeated at the end; empty where there is none."""
    graph = {
        module: {target for target in (resolve(name, imports) for name in names) if target and target != module}
        for module, names in imports.items()
    }
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph[module]):
            if cycle := visit(target, [*path, module]):
                return cycle
        done.add(module)
        return []

    for module in graph:
        if cycle := visit(module, []):
            return cycle
    return []


def resolve(name: str, imports: dict[str, set[str]]) -> str | None:
    """The module that an imported name is, or lies in."""
    if name in imports:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in imports else None


def test_every_room_is_in_the_list():
    rooms = {module.split(".")[1] for module in modules() if module != "embed"}
    assert rooms == set(ROOMS)


def test_no_import_goes_up():
    imports = {module: imported_modules(file) for module, file in modules().items()}
    assert find_upward_imports(imports) == []


def test_no_imports_go_round():
    imports = {module: imported_modules(file) for module, file in modules().items() if module != "embed"}
    assert find_cycle(imports) == []


def test_what_the_structure_forbids_would_be_seen():
    assert find_upward_imports({"embed.model.encoder": {"embed.training.loop"}}) == [
        "embed.model.encoder -> embed.training.loop"
    ]
    assert find_upward_imports({"embed.report.page": {"experiments.finetune"}})
    assert not find_upward_imports({"embed.training.loop": {"embed.model.encoder.Encoder"}})
    assert find_cycle({"embed.a": {"embed.b.f"}, "embed.b": {"embed.c"}, "embed.c": {"embed.a.g"}}) == [
        "embed.a",
        "embed.b",
        "embed.c",
        "embed.a",
    ]
