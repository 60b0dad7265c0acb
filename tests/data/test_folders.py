"""Datasets of your own become tasks whose rows hold what is in them; what cannot be used is named."""

import io
import json

import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow

from embed.data import folders, pipeline
from embed.data.layout import Budget
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


def test_tasks_follow_from_the_data(root, layout):
    pictures, sounds, texts = folders.tasks(root, layout, MOST, batch=8)
    assert [t.name for t in (pictures, sounds, texts)] == ["pictures", "sounds", "texts"]
    assert (pictures.batch, sounds.batch, texts.batch) == (4, 8, 8)
    assert (pictures.rate, sounds.rate, texts.rate) == (2, 10, 5)
    assert (pictures.negatives, sounds.negatives, texts.negatives) == (0, 0, 1)
    assert (texts.query, texts.target) == (Budget(32), Budget(64))  # cut to the most there may be
    assert pictures.target == Budget(32, images=1, patches=16)
    assert (sounds.query.images, sounds.target.clips, sounds.target.frames) == (2, 1, 16)


def test_what_they_hold_fits_their_rows(root, layout):
    tasks = folders.tasks(root, layout, MOST, batch=4)
    sources = [open_split(root / task.name, "train") for task in tasks]
    data = pipeline.mixture(tasks, sources, layout, seed=0)
    assert all(pairs.valid.all() for _, pairs in pipeline.batches(data, 0, 12, workers=0))


def test_broken_records_are_passed_over_and_a_dataset_of_them_is_named(root, layout):
    write(root / "texts", [{"query": "no list"}, {"query": [{"text": "a"}], "positive": [{"text": "b"}]}])
    assert [task.name for task in folders.tasks(root, layout, MOST, 2)] == ["pictures", "sounds", "texts"]
    write(root / "texts", [])
    with pytest.raises(ValueError, match="texts: none of the records"):
        folders.tasks(root, layout, MOST, 2)
    write(root / "texts", [{"query": "no list"}] * 3)
    with pytest.raises(ValueError, match="texts: none of the records looked at can be read"):
        folders.tasks(root, layout, MOST, 2)


def test_a_folder_without_datasets_is_named(tmp_path, layout):
    with pytest.raises(FileNotFoundError, match=r"no dataset in .*expected NAME/train\.jsonl"):
        folders.tasks(tmp_path, layout, MOST, 2)
    with pytest.raises(FileNotFoundError, match="no folder was given"):
        folders.with_split("", "train")
