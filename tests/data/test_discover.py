"""Datasets of your own become tasks whose rows hold what is in them; what cannot be used is named."""

import io
import json

import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow

from embed.data import discover, mixture
from embed.data.budget import Budget
from embed.data.discover import DatasetError
from embed.data.sources import open_split

MOST = Budget(64, images=2, patches=16, clips=1, frames=16)


def write(folder, rows, split="train"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def root(tmp_path):
    out = io.BytesIO()
    Pillow.new("RGB", (64, 32), "red").save(out, "PNG")
    for name in ("pictures", "sounds"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(out.getvalue())
    soundfile.write(tmp_path / "sounds" / "a.wav", np.zeros(16_000, np.float32), 16_000)
    text = [{"text": "word " * 200}]
    write(
        tmp_path / "texts", [{"query": [{"text": f"q {i}"}], "positive": text, "negatives": [text]} for i in range(25)]
    )
    mixed = [{"image": "a.png"}, {"text": "and"}, {"image": "a.png"}]
    write(tmp_path / "pictures", [{"query": [{"text": "hi"}], "positive": [{"image": "a.png"}]}] * 4)
    write(tmp_path / "sounds", [{"query": mixed, "positive": [{"audio": "a.wav"}]}] * 100)
    write(tmp_path / "only_tested", [{"query": text, "positive": text}], split="test")
    return tmp_path


def test_tasks_follow_from_the_data(root, preprocessor):
    pictures, sounds, texts = discover.make_tasks(root, preprocessor, MOST, batch=8)
    assert [t.name for t in (pictures, sounds, texts)] == ["pictures", "sounds", "texts"]
    assert (pictures.batch, sounds.batch, texts.batch) == (4, 8, 8)
    assert (pictures.weight, sounds.weight, texts.weight) == (2, 10, 5)
    assert (pictures.negatives, sounds.negatives, texts.negatives) == (0, 0, 1)
    assert (texts.query, texts.target) == (Budget(32), Budget(64))  # cut to the most there may be
    assert pictures.target == Budget(32, images=1, patches=16)
    assert (sounds.query.images, sounds.target.clips, sounds.target.frames) == (2, 1, 16)


def test_what_they_hold_fits_their_rows(root, preprocessor):
    tasks = discover.make_tasks(root, preprocessor, MOST, batch=4)
    sources = [open_split(root / task.name, "train") for task in tasks]
    data = mixture.mixture(tasks, sources, preprocessor, seed=0)
    assert all(pairs.valid.all() for _, pairs in mixture.iterate_batches(data, 0, 12, workers=0))


def test_broken_records_are_passed_over_and_a_dataset_of_them_is_named(root, preprocessor):
    write(root / "texts", [{"query": "no list"}, {"query": [{"text": "a"}], "positive": [{"text": "b"}]}])
    assert [task.name for task in discover.make_tasks(root, preprocessor, MOST, 2)] == ["pictures", "sounds", "texts"]
    write(root / "texts", [])
    with pytest.raises(DatasetError, match="texts: no record of the sample"):
        discover.make_tasks(root, preprocessor, MOST, 2)
    write(root / "texts", [{"query": "no list"}] * 3)
    with pytest.raises(DatasetError, match="texts: no record of the sample can be read"):
        discover.make_tasks(root, preprocessor, MOST, 2)


def test_a_folder_without_datasets_is_named(tmp_path, preprocessor):
    with pytest.raises(FileNotFoundError, match=r"no dataset in .*expected NAME/train\.jsonl"):
        discover.make_tasks(tmp_path, preprocessor, MOST, 2)
    with pytest.raises(FileNotFoundError, match=r"no folder was given: --config\.pairs=FOLDER"):
        discover.require_datasets("", "train")


def write_parts(folder, *parts):
    """Of a benchmark, those that are named."""
    for part in parts:
        write(folder, [{"id": "a", "content": [{"text": "a"}]}], split=part)
    if "qrels" in parts:
        (folder / "qrels.jsonl").rename(folder / "qrels.tsv")


def test_what_can_be_tested_has_pairs_or_a_whole_benchmark(tmp_path):
    write_parts(tmp_path / "benchmark", "corpus", "queries", "qrels")
    write_parts(tmp_path / "both", "corpus", "queries", "qrels", "test")
    write_parts(tmp_path / "mined", "corpus", "train")
    write_parts(tmp_path / "pairs", "test", "train", "corpus")
    assert [folder.name for folder in discover.require_benchmarks(tmp_path)] == ["benchmark", "both", "pairs"]
    assert [folder.name for folder in discover.require_benchmarks(tmp_path, "dev")] == ["benchmark", "both"]
    has = {folder.name: discover.has_benchmark(folder) for folder in tmp_path.iterdir()}
    assert has == {"benchmark": True, "both": True, "mined": False, "pairs": False}


@pytest.mark.parametrize("there", [("queries",), ("qrels",), ("corpus", "qrels"), ("corpus", "queries")])
def test_a_benchmark_that_lacks_a_part_is_refused_by_its_name(tmp_path, there):
    write_parts(tmp_path / "mine", "test", *there)
    names = {"corpus": "corpus.jsonl", "queries": "queries.jsonl", "qrels": "qrels.tsv"}
    with pytest.raises(DatasetError, match=r"mine: a benchmark is .*there is no (.*);") as refused:
        discover.require_benchmarks(tmp_path)
    missing = str(refused.value).partition("there is no ")[2].partition(";")[0].split(", ")
    assert set(missing) == {name for part, name in names.items() if part not in there}


def test_nothing_to_test_names_the_datasets_there_are(tmp_path):
    with pytest.raises(DatasetError, match=r"no folder \(--config\.pairs=FOLDER\): none of its datasets \(none\)"):
        discover.require_benchmarks("")
    write_parts(tmp_path / "a", "train")
    write_parts(tmp_path / "b", "corpus")
    with pytest.raises(DatasetError, match=r"none of its datasets \(a, b\) has test\.jsonl, or corpus\.jsonl, queries"):
        discover.require_benchmarks(tmp_path)
    write(tmp_path / "a", [], split="test")
    with pytest.raises(DatasetError, match="a: the split test is empty"):
        discover.require_benchmarks(tmp_path)


@pytest.mark.parametrize("name", ["a: query→target", "a,b", "a|b"])
def test_a_name_that_results_cannot_tell_apart_is_refused(tmp_path, name):
    write_parts(tmp_path / name, "test")
    with pytest.raises(DatasetError, match=r"a dataset.s name must not contain : , \|: rename the folder"):
        discover.require_benchmarks(tmp_path)
