"""The fork that trains on graded pairs: its tasks, what it refuses, and that the order of scores is learned."""

import json

import jax
import numpy as np
import pytest
from conftest import ARCH

from configs import cpu
from embed import toy_corpora
from embed.embedder import Embedder
from embed.eval import suite
from embed.model.build import build
from embed.model.encoder import init_params
from embed.model.presets import PRESETS
from embed.training.config_check import ConfigError
from embed.training.main import load_run, train
from embed.training.metadata import metadata_for
from embed.training.prepare import prepare_preprocessor
from embed.training.weights import save_params
from experiments import own_data
from experiments.ablations import own_data__graded_similarity

WORDS = ["red", "green", "blue", "small", "large", "star", "circle", "left", "right", "above"]
FILLERS = ["a", "an", "the", "this", "that", "some", "any", "every", "no", "such"]


def graded(rng) -> dict:
    """A pair whose score is the number of words that its sides share; the fillers that they share do not count."""
    score, num_fillers = rng.integers(0, 4, 2).tolist()
    words, fillers = rng.permutation(WORDS), rng.permutation(FILLERS)
    first = [*words[:3], *fillers[:3]]
    second = [*words[:score], *words[3 : 6 - score], *fillers[:num_fillers], *fillers[3 : 6 - num_fillers]]
    sides = [[{"text": " ".join(rng.permutation(side))}] for side in (first, second)]
    return {"a": sides[0], "b": sides[1], "score": score}


def write(path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A start of random weights, one dataset of pairs and one of graded pairs."""
    monkeypatch.setitem(PRESETS, "tiny", ARCH)
    for name in set(toy_corpora.CORPORA) - {"scenes_image"}:
        monkeypatch.delitem(toy_corpora.CORPORA, name)
    toy_corpora.build(tmp_path / "data", max_records=16)
    pairs = [
        {"id": i, "query": [{"text": f"find {word}"}], "positive": [{"text": word}]} for i, word in enumerate(WORDS)
    ]
    write(tmp_path / "pairs" / "p" / "train.jsonl", pairs)
    rng = np.random.default_rng(0)
    for split, count in (("sts_train", 256), ("sts", 128)):
        write(tmp_path / "pairs" / "s" / f"{split}.jsonl", [graded(rng) for _ in range(count)])
    preprocessor = prepare_preprocessor(ARCH, tmp_path / "data", str(tmp_path / "pairs"))
    start = init_params(build(ARCH), jax.random.key(0))
    save_params(tmp_path / "runs" / own_data.START, start, metadata_for(ARCH, preprocessor), preprocessor.tokenizer)
    config = cpu.get_config()
    config.update({"workdir": str(tmp_path / "runs"), "data": str(tmp_path / "data"), "pairs": str(tmp_path / "pairs")})
    config.update({"steps": 40, "save": 40})
    config.unroll = 1
    return config


def test_graded_pairs_join_the_tasks_of_its_parent(config, tmp_path):
    parent, fork = own_data.plan(config), own_data__graded_similarity.plan(config)
    assert fork.tasks[:1] == parent.tasks and [task.name for task in fork.tasks] == ["p", "s"]
    assert [task.is_graded for task in fork.tasks] == [False, True]
    (tmp_path / "pairs" / "s" / "sts_train.jsonl").unlink()
    with pytest.raises(
        ConfigError, match=r"--config\.pairs=.*pairs: no dataset there has graded pairs, sts_train\.jsonl"
    ):
        own_data__graded_similarity.plan(config)


@pytest.mark.slow
def test_it_learns_the_order_of_scores(config, tmp_path):
    run = load_run(own_data__graded_similarity.plan, config)
    train(run, config)
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {row["task"] for row in rows if "task" in row} == {"p", "s"}
    assert all(("ordered" in row) == (row["task"] == "s") for row in rows if "task" in row)
    spearman = {}
    for name in (own_data.START, run.folder.name):
        embedder = Embedder.load(tmp_path / "runs" / name)
        prepared = suite.load_datasets(embedder, config.pairs, "test")
        results = suite.evaluate(prepared, suite.encode_suite(embedder, embedder.params, prepared), (32,))
        spearman[name] = results["s: similarity"][32]["spearman"]
    assert spearman[run.folder.name] > spearman[own_data.START] + 0.1, spearman
