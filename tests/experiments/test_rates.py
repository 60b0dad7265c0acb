"""Mixtures are drawn around the parent's, trained, scored; what their rates did is a regression."""

import jax
import numpy as np
import pytest
from conftest import ARCH

from configs import cpu
from embed import toy_corpora
from embed.eval import suite
from embed.model.build import build
from embed.model.encoder import init_params
from embed.model.presets import PRESETS
from embed.training.metadata import metadata_for
from embed.training.prepare import prepare_preprocessor
from embed.training.weights import save_params
from experiments import finetune
from experiments.studies import rates

NAMES = ("scenes_image", "scenes_labels")


@pytest.mark.slow
def test_rates_are_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "tiny", ARCH)
    for name in set(toy_corpora.CORPORA) - set(NAMES):
        monkeypatch.delitem(toy_corpora.CORPORA, name)
    toy_corpora.build(tmp_path / "data", max_records=16)
    preprocessor = prepare_preprocessor(ARCH, tmp_path / "data")
    start, described = init_params(build(ARCH), jax.random.key(0)), metadata_for(ARCH, preprocessor)
    save_params(tmp_path / "runs" / finetune.START, start, described, preprocessor.tokenizer)
    monkeypatch.setattr(rates, "NUM_MIXTURES", 3)
    tasks = tuple(task for task in finetune.TASKS if task.name in NAMES)
    monkeypatch.setattr(finetune, "TASKS", tasks)
    monkeypatch.setattr(suite, "SUITE", {name: suite.SUITE[name] for name in NAMES})
    config = cpu.get_config()
    config.update({"steps": 1, "workdir": str(tmp_path / "runs"), "data": str(tmp_path / "data"), "unroll": 1})
    rates.main(config)
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| mixture | mean nDCG@10 | scenes_image | scenes_labels |"
    assert sorted(line.split(" | ")[0] for line in table[2:5]) == ["| 0", "| 1", "| 2"]
    assert [line.count("±") for line in table[-2:]] == [2, 2]
    assert (tmp_path / "runs" / "rates" / "2" / "metrics.jsonl").exists()


def test_slopes_are_those_of_the_scores():
    rng = np.random.default_rng(0)
    log_rates = rng.normal(size=(400, 3))
    scores = log_rates @ np.array([2.0, -1.0, 0.0]) + rng.normal(size=400)
    slope, error = rates.fit_slopes(np.exp(log_rates), scores)
    assert (np.abs(slope - [2, -1, 0]) < 4 * error).all() and np.allclose(error, 1 / 400**0.5, rtol=0.2)
