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
from embed import checkpoint, train
from embed.data import corpora
from embed.data.layout import Layout
from embed.data.prepare import layout_for
from embed.data.tasks import shapes
from embed.hf.export import export
from embed.mesh import make_mesh
from embed.model.encoder import Encoder, init
from embed.model.presets import PRESETS
from experiments import finetune

ROOT = pathlib.Path(__file__).parent.parent
FINETUNES = sorted(path.stem for path in (ROOT / "experiments").glob("finetune*.py"))
FORKS = [name for name in FINETUNES if "__" in name]
OF_PAIRS = sorted(path.stem for path in (ROOT / "experiments").glob("pairs__*.py"))
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
CHANGED = 10  # lines, beside the docstring
FROM_GEMMA = 22  # where the architecture and the layout come from is changed with it


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The data, and a folder for runs, with compiled programs kept from one experiment to the next."""
    folder = tmp_path_factory.mktemp("experiments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", ARCH)
        corpora.build(folder / "data", most=16)
        layout_for(ARCH, folder / "data")
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
        params = init(Encoder(arch), jax.random.key(0))
    layout = Layout(tokenizer, arch.media)
    checkpoint.save_params(folder / "run", params, checkpoint.describe(arch, layout), tokenizer)
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
    assert checkpoint.steps(work / name) == [2] and meta["experiment"] == name
    assert (meta["init"] is None) == name.startswith(("prefinetune", "finetune__from_scratch"))


@pytest.mark.parametrize("name", [*FORKS, *OF_PAIRS])
def test_a_fork_traces_to_a_loss(gemma, monkeypatch, name):
    """What the slow ones run is traced here, so that no fork can rot unseen."""
    monkeypatch.setitem(PRESETS, "tiny", ARCH)
    config = cpu.get_config()
    config.update({"unroll": 1, "pretrained": str(gemma)})
    own = (finetune.TASKS,) if name in OF_PAIRS else ()  # what others learn from their datasets
    plan = importlib.import_module(f"experiments.{name}").plan(config, *own)
    params, task, key = train.shapes(plan)[1].params, plan.tasks[-1], jax.eval_shape(lambda: jax.random.key(0))
    pairs = shapes(task, plan.encoder.arch.media)
    value, metrics = jax.eval_shape(lambda *args: plan.loss(*args, task.candidates, key), params, pairs)
    assert value.shape == metrics["accuracy"].shape == ()


def body(name: str) -> list[str]:
    """The lines of an experiment after its docstring."""
    source = (ROOT / "experiments" / f"{name}.py").read_text()
    return source.splitlines()[ast.parse(source).body[0].end_lineno :]


@pytest.mark.parametrize("name", [*FORKS, *OF_PAIRS])
def test_a_fork_is_its_parent_with_few_lines_changed(name):
    parent = name.rpartition("__")[0]
    module = importlib.import_module(f"experiments.{name}")
    assert f"Parent: {parent}.py." in module.__doc__ and f"python -m experiments.{name} " in module.__doc__
    assert name == module.NAME
    changes = [line for line in difflib.ndiff(body(parent), body(name)) if line[0] in "+-"]
    assert 0 < len(changes) <= (FROM_GEMMA if name == "finetune__from_gemma" else CHANGED), "\n".join(changes)


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
