"""README and docs/ are true: their code runs, their commands and paths exist, their sizes are those of the code."""

import dataclasses
import importlib.util
import itertools
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import pyarrow
import pyarrow.parquet
import pytest
from conftest import ARCH
from samples import FILES

from configs import cpu
from embed.__main__ import parse_args
from embed.data.budget import Budget
from embed.data.jsonl import parse_graded, parse_line
from embed.data.preprocess import Preprocessor
from embed.data.sources import open_split
from embed.data.tasks import Task
from embed.distributed.mesh import make_mesh
from embed.losses.contrastive import contrastive_loss
from embed.model.build import build
from embed.model.encoder import encode_pairs
from embed.training import loop, optim
from embed.training.run import Run

ROOT = pathlib.Path(__file__).parents[1]
DOCS = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "log.md"]  # which is history
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
ROOMS = ("embed", "experiments", "configs", "launch", "benchmarks", "tests")
# Programs of the blocks that are neither Python nor the project's own.
PROGRAMS = {"git", "cd", "pip", "gcloud", "xpk", "cp", "export", "source", "for", "do", "done", "NUMBER"}
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
# Runs `python -m MODULE ...` for every JSON list of arguments on stdin; the libraries are imported once for all.
HELP_SERVER = """
import json, os, runpy, sys
import embed.__main__, embed.training.main
for line in sys.stdin:
    arguments = json.loads(line)
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.argv = ["", *arguments[1:]]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        sys.exit(0)
    os.close(writer)
    output = open(reader).read()
    print(json.dumps([os.waitpid(child, 0)[1], output]), flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced code block."""

    page: pathlib.Path
    line: int
    language: str
    file: str  # of `file=PATH`: the block is an excerpt of that file
    reason: str  # why it is not run; "" where it is
    text: str

    def __str__(self):
        return f"{self.page.name}:{self.line}"


def blocks_of(page: pathlib.Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    blocks, before, fence = [], "", None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if fence is None and line.startswith("```"):
            language, _, info = line[3:].partition(" ")
            file = re.search(r"file=(\S+)", info)
            reason = NOT_RUN.fullmatch(before)
            fence = Block(page, number, language, file[1] if file else "", reason[1] if reason else "", "")
        elif fence is not None and line == "```":
            blocks.append(fence)
            fence = None
        elif fence is not None:
            fence = dataclasses.replace(fence, text=f"{fence.text}{line}\n")
        before = line
    assert fence is None, f"{page}: a block is not closed"
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [block for block in BLOCKS if not block.reason]


def commands_of(text: str) -> list[list[str]]:
    """The commands of a shell block as lists of words, without assignments in front."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        for is_separator, words in itertools.groupby(lexer, lambda word: set(word) <= set(";&|")):
            if not is_separator:
                commands.append(list(words))
    return commands


COMMANDS = [(block, command) for block in RUN if block.language == "bash" for command in commands_of(block.text)]


def count_rooms() -> dict[str, tuple[int, int]]:
    """Room -> (files, lines of code) of the Python and shell files that git would keep."""
    counts: dict[str, tuple[int, int]] = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            if path.suffix not in (".py", ".sh") or not (lines := len(path.read_text(encoding="utf-8").splitlines())):
                continue
            name = path.relative_to(ROOT).parts[:2] if room == "embed" and path.parent != ROOT / room else (room,)
            files, total = counts.get("/".join(name) + "/", (0, 0))
            counts["/".join(name) + "/"] = files + 1, total + lines
    return counts


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tokenizer) -> pathlib.Path:
    """A folder with what the blocks name: media, a Parquet file, and a run of two steps on the records of data.md."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "pairs" / "media").mkdir(parents=True)
    (folder / "pairs" / "media" / "cat.png").write_bytes(FILES["photo.png"])
    lines = [line for block in RUN if block.language == "json" for line in block.text.splitlines()]
    (folder / "pairs" / "train.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "coco").mkdir()
    row = {"id": 1, "captions": ["a cat"], "image": {"bytes": FILES["photo.png"]}}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "coco" / "train-0.parquet")

    arch = dataclasses.replace(ARCH, matryoshka_dims=(32, 64, 128))
    encoder = build(arch)

    def loss(params, pairs, candidates, key):
        sides = encode_pairs(lambda inputs: encoder.apply({"params": params.encoder}, inputs), pairs)
        return contrastive_loss(*sides, pairs, temperature=0.1, widths=arch.matryoshka_dims, candidates=candidates)

    side = Budget(40, images=1, patches=16)
    run = Run(
        encoder,
        (Task("pairs", 2, 1.0, side, side),),
        loss,
        optim.adamw(1e-3, warmup=1, steps=2),
        steps=2,
        seed=0,
        data=folder,
        folder=folder / "runs" / "soup_greedy",
    )
    with jax.set_mesh(make_mesh((1, 1, 1))):
        loop.fit(run, Preprocessor(tokenizer, arch.media), [open_split(folder / "pairs", "train")])
    return folder


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_every_block_is_checked():
    languages = {str(block): block.language for block in BLOCKS}
    assert set(languages.values()) <= {"python", "bash", "json", "text"}, languages


@pytest.mark.parametrize("block", [block for block in RUN if block.language == "json"], ids=str)
def test_records_are_of_the_package(block, workspace):
    for number, line in enumerate(block.text.encode().splitlines(), 1):
        parse = parse_graded if b'"score"' in line else parse_line
        assert parse(line, workspace / "pairs", f"{block}, line {number}").positive


@pytest.mark.parametrize(
    "page", sorted({block.page for block in RUN if block.language == "python"}), ids=lambda page: page.name
)
def test_python_runs(page, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    monkeypatch.syspath_prepend(ROOT)
    names: dict = {"__name__": page.stem}
    for block in RUN:
        if block.page == page and block.language == "python" and not block.file:
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)


@pytest.mark.parametrize("block", [block for block in RUN if block.file], ids=str)
def test_an_excerpt_is_in_its_file(block):
    assert block.text in (ROOT / block.file).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[int, str]]:
    """Module -> exit status and output of `python -m MODULE --help`, for the modules that blocks run."""
    modules = sorted({module for block, command in COMMANDS if (module := module_of(command))} - {"embed"})
    lines = "".join(json.dumps([module, "--help"]) + "\n" for module in modules)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HELP_SERVER], input=lines, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(modules), done.stderr
    return {module: (status, text) for module, (status, text) in zip(modules, answers, strict=True)}


def module_of(command: list[str]) -> str | None:
    """The module of `python -m MODULE ...`; None for another command, and for a copy that a block makes."""
    copied = {destination for _, (program, *words) in COMMANDS if program == "cp" for destination in words[1:]}
    if command[:2] != ["python", "-m"] or command[2].replace(".", "/") + ".py" in copied:
        return None
    return command[2]


@pytest.mark.parametrize(
    ("block", "command"), COMMANDS, ids=lambda value: "" if isinstance(value, list) else str(value)
)
def test_commands_exist(block, command, helps):
    program, words = command[0], command[1:]
    module, text = module_of(command), ""
    if module == "embed":
        parse_args(words[2:])  # exits where it cannot
        return
    if module:
        status, text = helps[module]
        assert status == 0, text
    elif program.startswith("launch/"):
        assert os.access(ROOT / program, os.X_OK)
        text = (ROOT / program).read_text(encoding="utf-8")
    else:
        assert program.split("=")[0] in PROGRAMS | {"python"}, f"{program} is unknown"
    if program == "pip":
        extras = re.findall(r"\[(\w+)\]", command[-1])
        assert all(f'"{extra}": [' in (ROOT / "setup.py").read_text() for extra in extras)
    if module or program.startswith("launch/"):
        check_words(words, text)


def check_words(words: list[str], text: str) -> None:
    """Flags are in the help text or the config, and files, experiments and modules that are named exist."""
    fields = cpu.get_config()
    names = {path.stem for path in (ROOT / "experiments").rglob("*.py")}
    for i, word in enumerate(words):
        if word.startswith("--config."):
            assert word.removeprefix("--config.").split("=")[0] in fields, word
        elif word.startswith("--config="):
            assert (ROOT / word.removeprefix("--config=")).exists(), word
        elif word.startswith("--"):
            assert re.search(rf"{word.split('=')[0].replace('--', '--(?:.no.)?')}\b", text) or word == "--help", word
        elif word.startswith(("experiments.", "launch.", "benchmarks.")):
            assert importlib.util.find_spec(word), word
        elif i and words[i - 1] in ("launch.compile", "launch.mixture"):
            assert word in names, word


@pytest.mark.parametrize("page", [*PAGES, ROOT / "BUILD_NOTES.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_paths_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"`((?:{'|'.join(ROOMS)}|docs|\.ci)/[\w./*-]*)`", text)
    assert [path for path in named if not [*ROOT.glob(path.rstrip("/"))]] == []
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_exist(page):
    for link in re.findall(r"\]\(([^)\s]*#[^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            file, anchor = link.split("#")
            text = ((page.parent / file) if file else page).read_text(encoding="utf-8")
            heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads], link


def test_the_table_of_rooms_is_that_of_the_code():
    rows = re.findall(r"^\| `([\w/]+/)` \| (\d+) \| ([\d,]+) \|", (ROOT / "docs/design.md").read_text(), re.MULTILINE)
    table = {room: int(lines.replace(",", "")) for room, _, lines in rows}
    counts = {room: lines for room, (_, lines) in count_rooms().items()}
    assert table.keys() == counts.keys()
    expected = "\n".join(f"| `{room}` | {files} | {lines:,} |" for room, (files, lines) in count_rooms().items())
    assert all(abs(table[room] - lines) <= 0.1 * lines for room, lines in counts.items()), expected


def test_versions_agree():
    version = re.search(r'version="([\d.]+)"', (ROOT / "setup.py").read_text())[1]
    assert re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == version
    assert re.search(r"^## (\d\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version


def test_a_block_says_why_it_is_not_run(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: needs a TPU -->\n```bash\na && b c # d\n```\n```python file=x.py\n1\n```\n")
    first, second = blocks_of(page)
    assert (first.reason, first.language, second.file, second.reason) == ("needs a TPU", "bash", "x.py", "")
    assert commands_of(first.text) == [["a"], ["b", "c"]]
