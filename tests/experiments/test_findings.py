"""A fork joins the findings by its file alone; tables are made of run folders, and only of what is there."""

import functools
import json
import logging
import pathlib

import jax
import pytest
from conftest import ARCH

import experiments
from configs import cpu
from embed import toy_corpora
from embed.eval import compare, suite
from embed.model.build import build
from embed.model.encoder import init_params
from embed.model.presets import PRESETS
from embed.training.config_check import ConfigError
from embed.training.metadata import metadata_for, read_metadata
from embed.training.prepare import prepare_preprocessor
from embed.training.weights import save_params
from experiments import ablations, finetune, own_data
from experiments.studies import findings, tables
from experiments.studies.tables import compare_findings

NAMES = ("scenes_image", "scenes_labels")
FORKS = "more_media,colder"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A start to fine-tune from, two tasks, two seeds, and forks of which one is new."""
    monkeypatch.setitem(PRESETS, "tiny", ARCH)
    for name in set(toy_corpora.CORPORA) - set(NAMES):
        monkeypatch.delitem(toy_corpora.CORPORA, name)
    toy_corpora.build(tmp_path / "data", max_records=16)
    preprocessor = prepare_preprocessor(ARCH, tmp_path / "data")
    start, described = init_params(build(ARCH), jax.random.key(0)), metadata_for(ARCH, preprocessor)
    save_params(tmp_path / "runs" / finetune.START, start, described, preprocessor.tokenizer)
    for module in (findings, tables):
        monkeypatch.setattr(module, "SEEDS", (0, 1))
    monkeypatch.setattr(suite, "SUITE", {name: suite.SUITE[name] for name in NAMES})
    tasks = [task for task in finetune.TASKS if task.name in NAMES]
    small = functools.wraps(finetune.plan)(functools.partial(finetune.plan, tasks=tasks))
    monkeypatch.setattr(finetune, "plan", small)
    config = cpu.get_config()
    config.update({"steps": 2, "save": 1, "workdir": str(tmp_path / "runs"), "data": str(tmp_path / "data")})
    config.unroll = 1

    # What a newcomer does: a file that derives from its parent, with a question, a hypothesis and a change.
    fork = '''"""How cold?

Hypothesis: It's <b>.
"""

import functools

from experiments import finetune


def plan(config):
    return finetune.plan(config, make_loss=functools.partial(finetune.make_loss, temperature=0.02))
'''
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "finetune__colder.py").write_text(fork)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path / "mine")])
    return config


@pytest.mark.slow
def test_a_fork_joins_by_its_file_and_tables_are_of_what_is_there(config, tmp_path, capsys):
    findings.main(config, FORKS)
    text, place = capsys.readouterr().out, tmp_path / "runs" / "findings"
    assert sorted(path.parent.name for path in place.glob("*/results.json")) == sorted(
        f"{name}_{seed}"
        for name in ("finetune", "finetune__colder", "finetune__more_media", *tables.name_soups("finetune"))
        for seed in (0, 1, *(["soup"] if name not in tables.name_soups("finetune") else []))
    )
    assert "Hypothesis: It's <b>." in text and text.count("2 seeds.") == 3 and text.count("3 experiments.") == 1
    page = (place / "findings.html").read_text()
    assert "It&#x27;s &lt;b&gt;." in page and page.count("<details>") == 4
    results = json.loads((place / "finetune__colder_1" / "results.json").read_text())
    assert {name.split(":")[0] for name in results} == {*NAMES, "scenes_labels, no task string"}
    seeds = {read_metadata(place / f"finetune__colder_{seed}")["seed"] for seed in (0, 1)}
    assert len(seeds) == 2

    # Nothing is trained or scored again; a run that is away takes its seed out of its own table alone.
    stamps = {path: path.stat().st_mtime_ns for path in place.glob("*/results.json")}
    (place / "finetune__colder_1" / "results.json").unlink()
    found = list(compare_findings(tmp_path / "runs"))
    assert [len(next(iter(one.columns.values()))) for one in found] == [1, 2, 2, 2]
    findings.main(config, FORKS)
    assert capsys.readouterr().out == text
    assert {path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp} == {
        place / "finetune__colder_1" / "results.json"
    }


@pytest.mark.slow
def test_on_datasets_of_ones_own_the_forks_of_pairs_are_compared(config, tmp_path, capsys):
    folders = {"animals": ("train", "test"), "birds": ("test",), "fish": ("test",)}
    for name, split in [(name, split) for name, splits in folders.items() for split in splits]:
        (tmp_path / "all" / name).mkdir(parents=True, exist_ok=True)
        rows = [
            {"id": str(i), "query": [{"text": f"{split} cat {i}"}], "positive": [{"text": f"a cat, {i % 3}"}]}
            for i in range(9)
        ]
        (tmp_path / "all" / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "runs" / finetune.START).rename(tmp_path / "runs" / own_data.START)
    config.update({"pairs": str(tmp_path / "all")})
    findings.main(config, "no_mask")
    text, place = capsys.readouterr().out, tmp_path / "runs" / "findings"
    assert "own_data__no_mask − own_data" in text and "| animals |" in text and "2 seeds." in text
    new = [f"{name}, not trained on" for name in ("birds", "fish")]
    table = compare.compute_cells(next(compare_findings(tmp_path / "runs")))
    assert [row for row in table if "not trained on" in row] == [*new, "mean, not trained on", "spread, not trained on"]
    at = [table[row]["own_data"].mean for row in new]
    assert table["mean, not trained on"]["own_data"].mean == pytest.approx(sum(at) / 2)
    assert sorted(path.parent.name for path in place.glob("*/results.json")) == [
        *(
            "own_data_0",
            "own_data_1",
            "own_data__no_mask_0",
            "own_data__no_mask_1",
            "own_data__no_mask_soup",
            "own_data_soup",
        ),
    ]
    metrics = (place / "own_data_0" / "metrics.jsonl", place / "own_data__no_mask_0" / "metrics.jsonl")
    masked, unmasked = (json.loads(one.read_text().splitlines()[0])["masked"] for one in metrics)
    assert masked > 0.1 and unmasked == pytest.approx(0, abs=1e-6)


def test_every_fork_is_selected_and_one_that_needs_a_model_is_left_out(config, caplog):
    caplog.set_level(logging.INFO)
    names = {path.stem for path in pathlib.Path(ablations.__path__[0]).glob("finetune__*.py")}
    assert set(findings.select_forks("", "finetune")) == {"finetune", *names, "finetune__colder"}
    parents = ["finetune", "finetune__from_scratch", "finetune__from_scratch__late_fusion"]
    assert findings.select_forks("from_scratch__late_fusion", "finetune") == parents
    runs = findings.plan_forks(config, ["finetune", "finetune__from_foundation", "finetune__colder"], must_run=False)
    assert (
        list(runs) == ["finetune", "finetune__colder"]
        and "finetune__from_foundation is left out: --config" in caplog.text
    )
    with pytest.raises(ConfigError, match=r"--config\.pretrained is not set"):
        findings.plan_forks(config, ["finetune__from_foundation"], must_run=True)


def test_a_fork_that_does_not_exist_is_named_with_those_that_do(config):
    with pytest.raises(ConfigError, match=r"finetune has no fork colda; choices: .*colder"):
        findings.select_forks("colda", "finetune")


def test_baselines_stand_beside_datasets_under_any_mark():
    references = {"bm25": {"a: q": {0: {"ndcg@10": 0.5}}, "b: q": {0: {"ndcg@10": 0.2}}}, "other": {"c": {0: {}}}}
    marked = f"a{tables.UNSEEN}: q"
    assert tables.relabel(references, {marked, "b: q"}) == {
        "bm25": {marked: references["bm25"]["a: q"], "b: q": references["bm25"]["b: q"]}
    }


@pytest.mark.parametrize("kept", [(), (0, 2)])
def test_an_experiment_whose_checkpoints_were_deleted_has_no_soup_over_seeds(tmp_path, caplog, kept):
    caplog.set_level(logging.INFO)
    for seed in kept:
        checkpoint = tables.run_folder(tmp_path, "own_data", seed) / "checkpoints" / "60"
        checkpoint.mkdir(parents=True)
        (checkpoint / "commit_success.txt").touch()
    assert findings.average_seeds(tmp_path, "own_data", trust=()) is None
    assert "own_data has no soup over its seeds" in caplog.text
    assert not tables.run_folder(tmp_path, "own_data", "soup").exists()
