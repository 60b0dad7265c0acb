"""Every experiment runs; a fork is its parent with a few lines changed; a misspelt flag is an error that helps."""

import ast
import difflib
import importlib
import json
import pathlib
import subprocess
import sys

import jax
import pytest
from conftest import ARCH
from jax.experimental.compilation_cache import compilation_cache

from configs import cpu
from embed import toy_corpora
from embed.data.preprocess import Preprocessor
from embed.data.tasks import batch_structs
from embed.distributed.mesh import make_mesh
from embed.hf.export import export
from embed.model.build import build
from embed.model.encoder import init_params
from embed.model.presets import PRESETS
from embed.training import checkpoint
from embed.training.main import strip_prose
from embed.training.prepare import prepare_preprocessor
from embed.training.start import state_structs
from experiments import finetune

ROOT = pathlib.Path(__file__).parents[2]
FINETUNES = sorted(path.stem for path in (ROOT / "experiments").glob("finetune*.py"))
FORKS = [name for name in FINETUNES if "__" in name]
OF_PAIRS = sorted(path.stem for path in (ROOT / "experiments").glob("pairs__*.py"))
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
CHANGED = 10  # lines, beside the docstring
FROM_GEMMA = 23  # where the architecture and the layout come from is changed with it


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The data, and a folder for runs, with compiled programs kept from one experiment to the next."""
    folder = tmp_path_factory.mktemp("experiments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", ARCH)
        toy_corpora.build(folder / "data", most=16)
        prepare_preprocessor(ARCH, folder / "data")
        before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir",)}
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        compilation_cache.reset_cache()
        yield folder
        jax.config.update("jax_compilation_cache_dir", before["jax_compilation_cache_dir"])
        compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def gemma(tmp_path_factory, tokenizer):
    """The folder of an EmbeddingGemma 2, tiny and with random weights."""
    folder = tmp_path_factory.mktemp("gemma")
    arch = PRESETS["tiny_embeddinggemma2"]
    with jax.set_mesh(make_mesh((1, 1, 1))):
        params = init_params(build(arch), jax.random.key(0))
    preprocessor = Preprocessor(tokenizer, arch.media)
    checkpoint.save_params(folder / "run", params, checkpoint.metadata_for(arch, preprocessor), tokenizer)
    export(folder / "run", folder / "hub")
    return folder / "hub"


def run(name: str, folder: pathlib.Path, pretrained: pathlib.Path) -> None:
    config = cpu.get_config()
    config.update({"steps": 2, "workdir": str(folder / "runs"), "data": str(folder / "data"), "unroll": 1})
    config.pretrained = str(pretrained)
    importlib.import_module(f"experiments.{name}").main(config)


# By default fine-tuning, after the stage before it, and the one that starts from Gemma; `-m slow` the others.
ALWAYS = ("finetune", "finetune__from_gemma")
EVERY = [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in ("prefinetune", *FINETUNES)]


@pytest.mark.parametrize("name", EVERY)
def test_runs_two_steps(small, gemma, name):
    work = small / "runs"
    if name not in ("prefinetune", "finetune__from_gemma") and not (work / "prefinetune").exists():
        run("prefinetune", small, gemma)
    run(name, small, gemma)
    rows = [json.loads(line) for line in (work / name / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1] and not any(row["skipped"] for row in rows)
    meta = checkpoint.metadata(work / name)
    assert checkpoint.saved_steps(work / name) == [2] and meta["experiment"] == name
    assert (meta["init"] is None) == name.startswith(("prefinetune", "finetune__from_scratch"))


@pytest.mark.parametrize("name", [*FORKS, *OF_PAIRS])
def test_a_fork_traces_to_a_loss(gemma, monkeypatch, name):
    """What the slow ones run is traced here, so that no fork can rot unseen."""
    monkeypatch.setitem(PRESETS, "tiny", ARCH)
    config = cpu.get_config()
    config.update({"unroll": 1, "pretrained": str(gemma)})
    own = (finetune.TASKS,) if name in OF_PAIRS else ()  # what others learn from their datasets
    plan = importlib.import_module(f"experiments.{name}").plan(config, *own)
    params, task, key = state_structs(plan)[1].params, plan.tasks[-1], jax.eval_shape(lambda: jax.random.key(0))
    pairs = batch_structs(task, plan.encoder.arch.media)
    value, metrics = jax.eval_shape(lambda *args: plan.loss(*args, task.candidates, key), params, pairs)
    assert value.shape == metrics["accuracy"].shape == ()


def read_source(name: str) -> str:
    return (ROOT / "experiments" / f"{name}.py").read_text()


def body(source: str) -> list[str]:
    """The lines of an experiment after its docstring."""
    return source.splitlines()[ast.parse(source).body[0].end_lineno :]


def is_name(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["NAME"]


def science(source: str) -> tuple[str, frozenset[str]]:
    """What an experiment does: its program without name, docstrings, comments and layout, and the imports it uses."""
    tree = ast.parse(strip_prose(source))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    tree.body = [node for node in tree.body if node not in imports and not is_name(node)]
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    named = {
        f"{getattr(node, 'module', '')} {alias.name} {alias.asname}"
        for node in imports
        for alias in node.names
        if (alias.asname or alias.name).partition(".")[0] in used
    }
    return ast.unparse(tree), frozenset(named)


def changes_the_science(parent: str, fork: str) -> bool:
    """Whether a fork's program does something that its parent's does not."""
    return science(parent) != science(fork)


def reverse_imports(source: str) -> str:
    lines = source.splitlines()
    places = [i for i, line in enumerate(lines) if line.startswith(("import ", "from "))]
    for place, line in zip(places, [lines[i] for i in reversed(places)], strict=True):
        lines[place] = line
    return "\n".join(lines)


NOTHING = {
    "a copy": lambda source: source,
    "its name": lambda source: source.replace('NAME = "finetune"', 'NAME = "finetune__nothing"'),
    "its docstrings": lambda source: source.replace('"""Fine-tuning:', '"""Hotter.\n\nParent: finetune.py.'),
    "comments": lambda source: source.replace("TEMPERATURE = 0.05", "TEMPERATURE = 0.05  # hot"),
    "layout": lambda source: source.replace("TASKS = (\n", "TASKS = (\n\n").replace("STEPS = 300", "STEPS = (300)"),
    "a number's spelling": lambda source: source.replace("RATE = 2e-3", "RATE = 0.002"),
    "order of imports": reverse_imports,
    "an import for nothing": lambda source: source.replace("import jax.numpy", "import math\nimport jax.numpy"),
}
SOMETHING = {
    "a constant": ("TEMPERATURE = 0.05", "TEMPERATURE = 0.02"),
    "its start": ('START = "prefinetune"', 'START = "pairs"'),
    "a task less": ('    Task("glyphs"', '    # Task("glyphs"'),
    "an argument": ("seed=1", "seed=2"),
    "the loss": ("return contrast(", "return 2 * contrast("),
    "where a function is from": ("from embed.losses.contrastive import", "from embed.losses.ring import"),
    "what is imported under a name": ("import Candidates, contrast", "import Candidates, margin as contrast"),
}


@pytest.mark.parametrize("change", NOTHING)
def test_a_fork_that_changes_nothing_is_none(change):
    parent = read_source("finetune")
    fork = NOTHING[change](parent)
    assert (fork == parent) == (change == "a copy") and not changes_the_science(parent, fork)


@pytest.mark.parametrize("change", SOMETHING)
def test_a_fork_that_changes_something_is_one(change):
    parent = read_source("finetune")
    assert parent.count(SOMETHING[change][0]) == 1
    assert changes_the_science(parent, parent.replace(*SOMETHING[change]))


@pytest.mark.parametrize("name", [*FORKS, *OF_PAIRS])
def test_a_fork_is_its_parent_with_few_lines_changed(name):
    parent = name.rpartition("__")[0]
    module = importlib.import_module(f"experiments.{name}")
    assert f"Parent: {parent}.py." in module.__doc__ and f"python -m experiments.{name} " in module.__doc__
    assert name == module.NAME
    before, after = read_source(parent), read_source(name)
    assert changes_the_science(before, after)
    changes = [line for line in difflib.ndiff(body(before), body(after)) if line[0] in "+-"]
    assert len(changes) <= (FROM_GEMMA if name == "finetune__from_gemma" else CHANGED), "\n".join(changes)


def test_a_misspelt_flag_is_named_with_a_suggestion(tmp_path):
    command = [sys.executable, "-m", "experiments.finetune", f"--config.workdir={tmp_path}", "--config.stepz=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "stepz" in done.stderr and 'Did you mean "steps"' in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_have_the_same_fields(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert list(config) == list(cpu.get_config()) and config.model in PRESETS
