"""A dataset's fingerprint is of its records in their order: not of where or when they were written."""

import dataclasses
import json
import os
import pathlib
import shutil

import pytest

from embed.data import fingerprint, writing
from embed.data.budget import Budget
from embed.data.modalities import Image, Text
from embed.data.records import Record, RecordError, to_bytes
from embed.data.sources import ArrayRecordSource, JsonlSource, TfdsSource, open_split
from embed.data.tasks import Task
from embed.data.writing import write_records, write_shards


def records(count: int = 400) -> list[Record]:
    return [Record(str(i), (Text(f"number {i:04}"),), (Image(bytes([i % 256]) * 9),)) for i in range(count)]


def write_jsonl(folder: pathlib.Path, texts: list[str], pictures: int = 0) -> JsonlSource:
    """Pairs of texts without ids; the first `pictures` have a picture, of bytes that are none."""
    folder.mkdir(exist_ok=True)
    lines = []
    for i, text in enumerate(texts):
        part = {"image": f"{i}.png"} if i < pictures else {"text": text[::-1]}
        lines.append(json.dumps({"query": [{"text": text}], "positive": [part]}))
        if i < pictures:
            (folder / f"{i}.png").write_bytes(bytes([i % 256]) * 9)
    (folder / "train.jsonl").write_text("\n".join(lines))
    return JsonlSource(folder, "train")


TEXTS = [f"line {i:06}" for i in range(1000)]


def test_one_edited_record_of_a_file_is_seen_and_so_is_another_order(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_BYTES", 4000)
    edited = records()
    edited[317] = dataclasses.replace(edited[317], query=(Text("nummer 0317"),))
    swapped = records()
    swapped[3], swapped[4] = swapped[4], swapped[3]
    prints = set()
    for name, written in {"plain": records(), "edited": edited, "swapped": swapped, "grown": records(401)}.items():
        write_records(tmp_path / name / "train.array_record", written)
        assert len(write_shards(tmp_path / name, "shards", map(to_bytes, written))) > 2
        prints |= {fingerprint.fingerprint(open_split(tmp_path / name, split)) for split in ("train", "shards")}
    assert len(prints) == 8
    texts = list(TEXTS)
    texts[701] = "line x00701"
    whole = [write_jsonl(tmp_path / "lines", wanted) for wanted in (TEXTS,)]
    prints = [fingerprint.fingerprint(source) for source in whole]
    prints += [fingerprint.fingerprint(write_jsonl(tmp_path / "lines", t)) for t in (texts, TEXTS[::-1], TEXTS[:-1])]
    assert len(set(prints)) == 4


def test_a_copy_elsewhere_is_the_same(tmp_path):
    write_records(tmp_path / "a" / "train.array_record", records())
    write_jsonl(tmp_path / "a" / "lines", TEXTS, pictures=30)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for file in (tmp_path / "b").rglob("*.*"):
        os.utime(file, (1, 1))
    for form in (lambda folder: open_split(folder, "train"), lambda folder: open_split(folder / "lines", "train")):
        assert fingerprint.fingerprint(form(tmp_path / "a")) == fingerprint.fingerprint(form(tmp_path / "b"))


def test_media_beside_a_file_are_seen_where_they_are_read(tmp_path):
    source = write_jsonl(tmp_path, TEXTS[:200], pictures=200)
    before = fingerprint.fingerprint(source)
    (tmp_path / "150.png").write_bytes(b"another 9")
    assert fingerprint.fingerprint(source) != before
    (tmp_path / "150.png").unlink()  # a bad record has a fingerprint, too
    assert fingerprint.fingerprint(source) not in (before, "")


def test_records_that_are_made_when_they_are_read_are_seen_by_content():
    def make(example: dict) -> Record:
        if example["text"] == "bad":
            raise RecordError("it is bad")
        return Record(example["id"], (Text(example["text"]),), (Text("yes"),))

    def print_of(*texts: str) -> str:
        return fingerprint.fingerprint(TfdsSource([{"id": str(i), "text": text} for i, text in enumerate(texts)], make))

    assert len({print_of("a", "b"), print_of("b", "a"), print_of("a"), print_of("a", "bad"), print_of("ab")}) == 5
    assert print_of("a", "b") == print_of("a", "b")


def test_of_large_files_sizes_and_blocks_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "MAX_BYTES", 1000)
    monkeypatch.setattr(fingerprint, "BLOCK", 100)
    file = tmp_path / "train.array_record"
    write_records(file, records(100))
    source, content = ArrayRecordSource(file), file.read_bytes()
    stride = -(-len(content) // 1000) * 100
    assert stride > 200

    def after(data: bytes) -> bool:
        file.write_bytes(data)
        return fingerprint.fingerprint(source) == before

    before = fingerprint.fingerprint(source)
    at = stride * 2 + 50
    assert not after(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    at = stride * 2 + 150
    assert after(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])  # between two blocks
    assert not after(content + b"\0")
    assert after(content)


def test_datasets_are_described_by_name(tmp_path):
    task = Task("one", 4, 1.0, Budget(8), Budget(8))
    tasks = [task, dataclasses.replace(task, name="two")]
    described = fingerprint.describe_datasets(tasks, [records(7), records(8)])
    assert {name: data["records"] for name, data in described.items()} == {"one": 7, "two": 8}
    assert json.loads(json.dumps(described)) == described
    assert described["one"]["fingerprint"] != described["two"]["fingerprint"]


@pytest.mark.parametrize("count", [0, 1, 255, 257])
def test_a_dataset_of_any_size_has_one(count):
    assert fingerprint.fingerprint(records(count)) == fingerprint.fingerprint(records(count))
