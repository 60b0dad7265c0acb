"""Tasks of graded pairs: scores in the batch, the same task string on both sides, bad records quarantined."""

import json

import jax
import numpy as np
import pytest

from embed.batch import MediaFormat
from embed.data import discover
from embed.data.budget import Budget
from embed.data.discover import DatasetError
from embed.data.modalities import Text
from embed.data.sources import open_split
from embed.data.tasks import Task, batch_structs, make_pairs
from embed.distributed import storage
from embed.training.prepare import open_sources

PROMPT = "task: sentence similarity | query: "
LARGE = Budget(128)


def write(path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def graded(number: int, **fields) -> dict:
    return {"id": number, "a": [{"text": f"a cat {number}"}], "b": [{"text": "a dog"}], "score": number / 2} | fields


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "s" / "sts_train.jsonl", [graded(i) for i in range(8)])
    pairs = [{"id": i, "query": [{"text": f"find {i}"}], "positive": [{"text": f"about {i}"}]} for i in range(8)]
    write(tmp_path / "p" / "train.jsonl", pairs)
    return storage.path(tmp_path)


def rows_of(inputs) -> list[list[int]]:
    return [tokens[segments > 0].tolist() for tokens, segments in zip(inputs.tokens, inputs.segments, strict=True)]


def test_a_graded_task_has_scores_and_one_prompt_on_both_sides(root, preprocessor):
    (task,) = discover.make_graded_tasks(root, preprocessor, LARGE, 4)
    assert (task.name, task.batch, task.split, task.is_graded) == ("s", 4, "sts_train", True)
    (source,) = open_sources([task], root)
    pairs = make_pairs(task, preprocessor, source, np.array([[5, 0], [2, 1], [7, 2], [0, 3]]))
    assert pairs.score.tolist() == [2.5, 1.0, 3.5, 0.0] and pairs.score.dtype == np.float32
    assert pairs.valid.all() and not pairs.truncated.any()
    ids = preprocessor.tokenizer.encode
    expected = [[ids(f"{PROMPT}a cat {i}"), ids(f"{PROMPT}a dog")] for i in (5, 2, 7, 0)]
    for query, target, (first, second) in zip(rows_of(pairs.query), rows_of(pairs.target), expected, strict=True):
        assert query[1:-1] == list(first) and target[1:-1] == list(second)  # between <bos> and <eos>


def test_other_tasks_have_no_scores(root, preprocessor):
    (task,) = discover.make_tasks(root, preprocessor, LARGE, 4)
    pairs = make_pairs(task, preprocessor, open_split(root / "p", "train"), np.array([[0, 0], [1, 0]]))
    assert not task.is_graded and pairs.score.shape == (0,) and pairs.score.dtype == np.float32


@pytest.mark.parametrize("split", ["train", "sts_train"])
def test_structs_are_those_of_the_batches(root, preprocessor, split):
    name = "s" if split == "sts_train" else "p"
    task = Task(name, 4, 1.0, Budget(32), Budget(32), split=split)
    pairs = make_pairs(task, preprocessor, open_split(root / name, split), np.zeros((4, 2), int))
    structs = batch_structs(task, preprocessor.media)
    assert isinstance(preprocessor.media, MediaFormat)
    shapes, expected = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (structs, pairs))
    assert shapes == expected


@pytest.mark.parametrize("fields", [{"score": "high"}, {"score": None}, {"a": []}])
def test_a_bad_record_is_quarantined_and_the_others_stay(root, preprocessor, caplog, fields):
    write(root / "s" / "sts_train.jsonl", [graded(0), graded(1, **fields), graded(2)])
    (task,) = discover.make_graded_tasks(root, preprocessor, LARGE, 3)
    pairs = make_pairs(task, preprocessor, open_split(root / "s", "sts_train"), np.array([[0, 0], [1, 0], [2, 0]]))
    assert pairs.valid.tolist() == [True, False, True] and pairs.score.tolist() == [0.0, 0.0, 1.0]
    assert "quarantined: task s, record 1: " in caplog.text


def test_a_label_that_is_no_score_is_quarantined(root, preprocessor, caplog):
    task = Task("p", 2, 1.0, Budget(32), Budget(32), split="sts_train")
    pairs = make_pairs(task, preprocessor, open_split(root / "p", "train"), np.array([[0, 0], [1, 0]]))
    assert not pairs.valid.any() and "label: expected the score of a graded pair, got ''" in caplog.text


def test_a_folder_with_both_kinds_of_pairs_is_refused(root, preprocessor):
    write(root / "p" / "sts_train.jsonl", [graded(0)])
    with pytest.raises(DatasetError, match=r"p: train and sts_train are two tasks: put the graded pairs in another"):
        discover.make_graded_tasks(root, preprocessor, LARGE, 4)
    assert isinstance(open_split(root / "s", "sts_train")[0].query[0], Text)
