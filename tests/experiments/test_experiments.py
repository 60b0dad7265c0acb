"""Every experiment runs; a fork is its parent with one change; its program is its parents' too; help and mistakes."""

import dataclasses
import functools
import importlib
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ARCH
from jax.experimental.compilation_cache import compilation_cache

import experiments
from configs import base, cpu
from embed import toy_corpora
from embed.data.preprocess import Preprocessor
from embed.data.tasks import batch_structs
from embed.distributed.mesh import make_mesh
from embed.eval.baselines.dense import DenseRetriever
from embed.eval.baselines.evaluate import Baseline
from embed.losses.loss import Params
from embed.model.build import build
from embed.model.encoder import init_params
from embed.model.params import param_shapes
from embed.model.presets import PRESETS
from embed.training import checkpoint
from embed.training.command_line import config_fields
from embed.training.main import list_experiments, load_experiment, load_run, train
from embed.training.metadata import load_preprocessor, metadata_for, read_architecture, read_metadata
from embed.training.prepare import prepare_preprocessor
from embed.training.program import program_source, strip_prose
from embed.training.published import export_checkpoint
from embed.training.run import Run
from embed.training.start import state_structs
from embed.training.weights import load_params, save_params
from experiments import finetune, own_data

ROOT = pathlib.Path(__file__).parents[2]
EXPERIMENTS = list_experiments()
FORKS = [name for name in EXPERIMENTS if "__" in name]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
MAX_LINES = 25
FROM_FOUNDATION = (  # what needs --config.pretrained
    "finetune__from_foundation",
    "own_data__after_prefinetune",
    "own_data__after_prefinetune__untrained",
    "own_data__after_recipe",
    "own_data__causal",
    "own_data__causal_last_token",
    "own_data__first_token",
    "own_data__from_scratch__longer",
    "own_data__last_token",
    "own_data__longer",
    "own_data__lora",
    "own_data__only_projection",
    "own_data__untrained",
    "own_data__upper_third",
)
AFTER_STAGES = {"__after_recipe": own_data.START, "__after_prefinetune": finetune.START}
NEW_METHODS = {"finetune__modality_temperatures": 40, "finetune__no_mask": 28, "finetune__random_negatives": 27}
NEW_METHODS |= {
    "finetune__spread_out": 27,
    "own_data__distilled": 41,
    "own_data__graded_similarity": 36,
    "own_data__lora": 38,
    "own_data__mined_negatives": 26,
}  # forks with a loss of their own: name -> lines at most


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The data, and a folder for runs, with compiled programs kept from one experiment to the next."""
    folder = tmp_path_factory.mktemp("experiments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", ARCH)
        toy_corpora.build(folder / "data", max_records=16)
        prepare_preprocessor(ARCH, folder / "data")
        before = jax.config.jax_compilation_cache_dir
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        compilation_cache.reset_cache()
        yield folder
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def gemma(tmp_path_factory, tokenizer):
    """The folder of an EmbeddingGemma 2, tiny and with random weights."""
    folder = tmp_path_factory.mktemp("gemma")
    arch = PRESETS["tiny_embeddinggemma2"]
    with jax.set_mesh(make_mesh((1, 1, 1))):
        params = init_params(build(arch), jax.random.key(0))
    preprocessor = Preprocessor(tokenizer, arch.media)
    save_params(folder / "run", params, metadata_for(arch, preprocessor), tokenizer)
    export_checkpoint(folder / "run", folder / "hub")
    return folder / "hub"


def run(name: str, folder: pathlib.Path, pretrained: pathlib.Path) -> None:
    config = cpu.get_config()
    config.update({"steps": 2, "workdir": str(folder / "runs"), "data": str(folder / "data"), "unroll": 1, "eval": 0})
    config.pretrained = str(pretrained) if name in FROM_FOUNDATION else ""
    train(load_run(load_experiment(name).plan, config), config)


# By default fine-tuning, after the stage before it, and the one that starts from Gemma; `-m slow` the others.
ALWAYS = ("finetune", "finetune__from_foundation")
EVERY = [
    name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow)
    for name in EXPERIMENTS
    if name.startswith(("prefinetune", "finetune")) and name.count("__") < 2  # forks of forks are traced alone
]


@pytest.mark.parametrize("name", EVERY)
def test_runs_two_steps(small, gemma, name):
    work = small / "runs"
    if name not in ("prefinetune", "finetune__from_foundation") and not (work / "prefinetune").exists():
        run("prefinetune", small, gemma)
    run(name, small, gemma)
    rows = [json.loads(line) for line in (work / name / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1] and not any(row["skipped"] for row in rows)
    meta = read_metadata(work / name)
    assert checkpoint.saved_steps(work / name) == [2] and meta["experiment"] == name
    assert (meta["init"] is None) == name.startswith(("prefinetune", "finetune__from_scratch"))


@pytest.fixture(scope="module")
def foundation(tmp_path_factory, tokenizer):
    """A run of a small Gemma 3 whose projection and media maps are new, and its parameters."""
    folder = tmp_path_factory.mktemp("foundation") / "gemma"
    arch = dataclasses.replace(PRESETS["tiny_gemma3_1b"], vocab_size=tokenizer.size)
    with jax.set_mesh(make_mesh((1, 1, 1))):
        params = init_params(build(arch), jax.random.key(5))
        new = [path for path in param_shapes(params) if path.startswith(("projection", "vision", "audio"))]
        metadata = metadata_for(arch, Preprocessor(tokenizer, arch.media), new=new)
        save_params(folder, params, metadata, tokenizer)
    return folder, params


def test_the_stages_start_from_a_foundation(small, tmp_path, tokenizer, foundation):
    """Its architecture and tokenizer, and its token table, which does not change; what it lacks moves most."""
    gemma, params = foundation
    config = cpu.get_config()
    config.update({"steps": 2, "workdir": str(tmp_path / "runs"), "data": str(small / "data"), "unroll": 1, "eval": 0})
    config.pretrained = str(gemma)
    arch = read_architecture(read_metadata(gemma))
    for name, init in (("prefinetune", gemma), ("finetune", tmp_path / "runs" / "prefinetune")):
        train(load_run(load_experiment(name).plan, config), config)
        metadata = read_metadata(tmp_path / "runs" / name)
        assert metadata["init"] == str(init) and read_architecture(metadata) == arch
        assert load_preprocessor(tmp_path / "runs" / name).tokenizer.hash == tokenizer.hash
        trained = load_params(tmp_path / "runs" / name)
        np.testing.assert_array_equal(trained["vocabulary"], params["vocabulary"])

        def change(*path: str, trained: dict = trained) -> float:
            before, after = (functools.reduce(dict.__getitem__, path, tree) for tree in (params, trained))
            return float(np.abs(after - before).max())

        query = change("backbone", "last_group", "locals", "attention", "query", "weight")
        assert change("projection", "weight") > 5 * query > 0


@pytest.mark.parametrize("name", ["prefinetune", "finetune"])
@pytest.mark.parametrize("devices", [1, 4, 8])
def test_batches_from_a_foundation_divide_among_the_devices(foundation, name, devices):
    """Packed rows on one device, larger batches on several."""
    config = cpu.get_config()
    config.pretrained = str(foundation[0])
    with jax.set_mesh(make_mesh((1, devices, 1), jax.devices()[:devices])):
        tasks = load_run(load_experiment(name).plan, config).tasks
    assert not any(task.groups % devices for task in tasks)
    assert any(task.packing for task in tasks) == (devices == 1)


@pytest.mark.parametrize(
    "fork",
    [
        "",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (*AFTER_STAGES, "__upper_third", "__lora", "__only_projection", "__mined_negatives")
        ),
    ],
)
def test_datasets_of_ones_own_start_from_a_foundation(small, tmp_path, foundation, fork):
    """Directly, without the recipe, in packed rows; its forks too, some from what a stage of the recipe made."""
    gemma, params = foundation
    rows = [
        {
            "id": str(i),
            "query": [{"text": f"animal {i}"}],
            "positive": [{"text": f"a cat, {i}"}],
            "negatives": [[{"text": f"a dog, {i}"}]],
        }
        for i in range(9)
    ]
    for folder in (tmp_path / "pairs" / "animals", tmp_path / "runs" / "mined" / "animals"):
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = cpu.get_config()
    config.update({"steps": 2, "workdir": str(tmp_path / "runs"), "data": str(small / "data"), "unroll": 1})
    config.update({"pairs": str(tmp_path / "pairs"), "pretrained": str(gemma)})
    starts = {name: tmp_path / "runs" / stage for name, stage in AFTER_STAGES.items()}
    for start in starts.values():
        shutil.copytree(gemma, start)
    run = load_run(load_experiment(f"own_data{fork}").plan, config)
    assert run.tasks[0].packing and run.tasks[0].negatives == 1
    assert run.init == starts.get(fork, gemma)
    train(run, config)
    trained = load_params(run.folder)
    is_equal = jax.tree.map(np.array_equal, trained, jax.tree.map(np.asarray, params))
    assert not is_equal["projection"]["weight"] and is_equal["vocabulary"]

    def first_query(tree: dict) -> np.ndarray:
        return np.asarray(tree["backbone"]["groups"]["locals"]["attention"]["query"]["weight"])

    assert np.array_equal(first_query(trained), first_query(params)) == (fork == "__only_projection")
    is_frozen = fork in ("__only_projection", "__upper_third")
    assert np.array_equal(first_query(trained)[0], first_query(params)[0]) == is_frozen


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> pathlib.Path:
    """A folder of own datasets, with one of graded pairs."""
    folder = tmp_path_factory.mktemp("datasets")
    (folder / "graded").mkdir()
    lines = [{"id": str(i), "a": [{"text": "x"}], "b": [{"text": "y"}], "score": i, "lang": "en"} for i in range(4)]
    (folder / "graded" / "sts_train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "animals").mkdir()
    line = {"id": "1", "query": [{"text": "a cat"}], "positive": [{"text": "it purrs"}]}
    (folder / "animals" / "train.jsonl").write_text(json.dumps(line) + "\n")
    return folder


@pytest.fixture
def plan(monkeypatch, preprocessor, pairs):
    """An experiment's run on small models; that of own datasets on finetune's tasks."""
    monkeypatch.setitem(PRESETS, "tiny", ARCH)

    def make_tasks(config, batch=own_data.BATCH, negatives=1):
        return [dataclasses.replace(task, negatives=negatives) for task in finetune.TASKS]

    def encode(texts: list[str], is_document: bool) -> np.ndarray:
        return np.array([[len(text), text.count("a"), is_document] for text in texts], np.float32)

    teacher = DenseRetriever("letters", "key", 3, "all", encode)
    distilled = importlib.import_module("experiments.ablations.own_data__distilled")
    monkeypatch.setattr(distilled, "load_baseline", lambda name: Baseline(name, teacher))
    monkeypatch.setattr(own_data, "make_tasks", make_tasks)
    monkeypatch.setattr(own_data, "load_preprocessor", lambda config: preprocessor)

    def load(name: str, pretrained: pathlib.Path | None) -> Run:
        config = cpu.get_config()
        config.update({"unroll": 1, "pairs": str(pairs), "pretrained": str(pretrained or "")})
        return load_run(load_experiment(name).plan, config)

    return load


TRACED = [name if name.startswith("finetune") else pytest.param(name, marks=pytest.mark.slow) for name in FORKS]


@pytest.mark.parametrize("name", TRACED)
def test_a_fork_traces_to_a_loss(gemma, plan, name):
    """What the slow ones run is traced here, so that no fork can rot unseen."""
    run = plan(name, gemma if name in FROM_FOUNDATION else None)
    state, task, key = state_structs(run)[1], run.tasks[-1], jax.eval_shape(lambda: jax.random.key(0))
    pairs, params = batch_structs(task, run.encoder.arch.media), Params(state.encoder, state.loss)
    value, metrics = jax.eval_shape(lambda *args: run.loss(*args, task.candidates, key), params, pairs)
    assert value.shape == () and {metric.shape for metric in metrics.values()} == {()}


@pytest.mark.parametrize("name", FORKS)
def test_a_fork_is_its_parent_with_one_change(gemma, plan, name):
    """A few lines, and a run that differs from the parent's in something."""
    module, parent = load_experiment(name), name.rpartition("__")[0]
    if "Hypothesis:" in module.__doc__:  # as the committed ones have; a user's own may be as long as it likes
        assert len(pathlib.Path(module.__file__).read_text().splitlines()) <= NEW_METHODS.get(name, MAX_LINES)
    runs = [plan(each, gemma if name in FROM_FOUNDATION else None) for each in (parent, name)]
    assert runs[1].folder.name == name and list(runs[1].metadata["program"])[-1:] and runs[1].metadata["program"][name]
    assert parent.split("__")[0] in runs[1].metadata["program"]
    fields = [
        (run.tasks, run.data, run.steps, run.seed, run.init, run.encoder, source_of_loss(run), run.trainable)
        for run in runs
    ]
    assert fields[0] != fields[1] or name == "own_data__large_batch"  # whose tasks are the data's


def source_of_loss(run: Run) -> str:
    """The loss's values that a closure holds: its widths, temperature and contrast."""
    cells = getattr(run.loss, "__closure__", None)
    if cells is None:
        return str(type(run.loss))
    names = run.loss.__code__.co_freevars
    values = dict(zip(names, (cell.cell_contents for cell in cells), strict=True))
    return str({name: values.get(name) for name in ("contrast", "temperature", "widths")})


def test_a_batch_of_own_data_is_as_large_as_the_fork_says(monkeypatch):
    batches = []
    monkeypatch.setattr(own_data, "make_tasks", lambda config, batch: batches.append(batch) or finetune.TASKS)
    for name in ("own_data", "own_data__large_batch", "own_data__large_batch__no_mask"):
        load_experiment(name).plan(cpu.get_config())
    assert batches == [32, 256, 256]


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A parent, its fork, and the fork's fork, in a folder of experiments."""
    (tmp_path / "grandparent.py").write_text('"""Doc."""\nTEMPERATURE = 0.05\n')
    (tmp_path / "parent.py").write_text("from experiments import grandparent\nSTEPS = 3\n")
    child = "import experiments.parent\n\ndef plan(config):\n    return experiments.parent.STEPS\n"
    (tmp_path / "child.py").write_text(child)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    yield tmp_path
    for name in ("grandparent", "parent", "child"):
        sys.modules.pop(f"experiments.{name}", None)


def test_a_program_is_that_of_its_parents_too(family, tmp_path):
    """A changed constant of a parent, even of a parent's, is another program; words are not."""
    plan = importlib.import_module("experiments.child").plan
    before = program_source(plan)
    assert list(before) == ["child", "grandparent", "parent"] and before["grandparent"] == "TEMPERATURE = 0.05"
    (tmp_path / "grandparent.py").write_text('"""Better doc."""\n\nTEMPERATURE = 0.05  # tuned\n')
    assert program_source(plan) == before
    (tmp_path / "grandparent.py").write_text('"""Doc."""\nTEMPERATURE = 0.02\n')
    assert program_source(plan) == before | {"grandparent": "TEMPERATURE = 0.02"}


def test_a_run_does_not_go_on_under_a_changed_parent(small, gemma, monkeypatch):
    if not (small / "runs" / "prefinetune").exists():
        run("prefinetune", small, gemma)
    name = "finetune__no_hard_negatives"
    run(name, small, gemma)
    source = pathlib.Path(finetune.__file__).read_text()
    changed = small / "finetune.py"
    changed.write_text(source.replace("TEMPERATURE = 0.05", "TEMPERATURE = 0.02"))
    monkeypatch.setattr(finetune.__spec__, "origin", str(changed))
    with pytest.raises(checkpoint.CheckpointError, match=r"program\.finetune: \+TEMPERATURE = 0\.02"):
        run(name, small, gemma)


NOTHING = {
    "docstrings": ('"""Fine-tuning:', '"""Hotter.\n\nFine-tuning:'),
    "comments": ("TEMPERATURE = 0.05", "TEMPERATURE = 0.05  # hot"),
    "layout": ('TASKS = (\n    Task("scenes_image", 64', 'TASKS = (\n\n    Task("scenes_image", 64'),
    "a number's spelling": ("LEARNING_RATE = 2e-3", "LEARNING_RATE = 0.002"),
}
SOMETHING = {
    "a constant": ("TEMPERATURE = 0.05", "TEMPERATURE = 0.02"),
    "its start": ('START = "prefinetune"', 'START = "own_data"'),
    "a task less": ('    Task("glyphs", 64', '    # Task("glyphs", 64'),
    "an argument": ("seed=1", "seed=2"),
    "the loss": ("return contrast(", "return 2 * contrast("),
    "where a function is from": ("from embed.losses.contrastive import", "from embed.losses.ring import"),
}


@pytest.mark.parametrize("change", [*NOTHING, *SOMETHING])
def test_a_program_changes_with_what_it_does_alone(change):
    before, after = (NOTHING | SOMETHING)[change]
    source = pathlib.Path(finetune.__file__).read_text()
    assert source.count(before) == 1
    assert (strip_prose(source) == strip_prose(source.replace(before, after))) == (change in NOTHING)


def test_a_misspelt_flag_is_named_with_a_suggestion(tmp_path):
    command = [sys.executable, "-m", "experiments.finetune", f"--config.workdir={tmp_path}", "--config.stepz=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "stepz" in done.stderr and 'Did you mean "steps"' in done.stderr
    assert not list(tmp_path.iterdir())


SCRIPTS = ["finetune", "ablations.finetune__no_mask", "recipe", "soup", "studies.findings", "studies.order"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_says_what_a_script_does_and_lists_every_flag(name):
    command = [sys.executable, "-m", f"experiments.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    module = importlib.import_module(f"experiments.{name}")
    assert done.stdout.startswith(module.__doc__.strip())
    fields = config_fields(ROOT / "configs" / "base.py")
    assert sorted(field for field, _, _ in fields) == sorted(base.get_config())
    for field, value, comment in fields:
        assert comment and f"--config.{field}={value}" in done.stdout and comment.split()[0] in done.stdout
    assert ("--forks=" in done.stdout) == (name == "studies.findings")
    assert ("--checkpoint=" in done.stdout) == (name == "studies.order")


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_have_the_same_fields(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert list(config) == list(base.get_config()) and config.model in PRESETS
