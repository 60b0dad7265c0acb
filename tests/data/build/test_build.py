"""A build keeps every record that can be decoded and counts the others, for every source, also after a crash."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets
from PIL import Image as Pillow

from embed import __main__ as command
from embed.data import writing
from embed.data.budget import Budget
from embed.data.build import formats, spec
from embed.data.build.build import BuildError, Options, build
from embed.data.media import decode
from embed.data.mixture import mixture
from embed.data.modalities import Image, Text
from embed.data.records import Record
from embed.data.sources import JsonlSource, open_split, read_records
from embed.data.tasks import Task
from embed.eval.benchmarks import from_folder


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Pillow.new("RGB", (16, 16), (shade, 40, 200)).save(out, "PNG")
    return out.getvalue()


def without_provenance(records) -> list[Record]:
    """Records without their provenance."""
    return [Record(r.id, r.query, r.positive, r.negatives, r.lang, r.label) for r in records]


def text(value: str) -> list:
    return [{"text": value}]


@pytest.fixture
def folder(tmp_path):
    """A folder with 23 training records, three of them unreadable and one twice, and 4 test records."""
    (found := tmp_path / "mine").mkdir()
    for i in range(20):
        (found / f"{i}.png").write_bytes(png(i)[: 50 if i == 7 else None])
    rows = [
        {"id": str(i), "query": text(f"number {i}"), "positive": [{"image": f"{i}.png"}], "lang": "en"}
        for i in range(20)
    ]
    rows += [rows[3], {"id": "gone", "query": text("x"), "positive": [{"image": "gone.png"}]}]
    lines = [json.dumps(row) for row in rows] + ["no JSON"]
    (found / "train.jsonl").write_text("\n".join(lines) + "\n")
    rows = [{"query": text(f"number {i}"), "positive": text(f"a test {i}")} for i in (19, 30, 31, 32)]
    (found / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (found / "meta.json").write_text(json.dumps({"license": "CC0", "source": "this test", "task": "image"}))
    return found


def test_every_record_is_kept_or_counted(folder, tmp_path):
    facts = build(folder, tmp_path / "out", Options(), workers=2)
    train = facts["splits"]["train"]
    assert facts["counts"] == {"train": 18, "test": 4} and facts["license"] == "CC0" and train["read"] == 23
    assert train["duplicates"] == 1 and train["overlap with its own test"] == 1  # 3 again, and 19
    assert sum(train["quarantined"].values()) == 3 and len(train["quarantined"]) == 3
    assert train["langs"] == {"en": 18} and train["modalities"] == {"text → image": 18}
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(line["where"].split("[")[-1] for line in lines) == ["21]", "22]", "7]"]
    source = JsonlSource(folder, "train")
    kept = [source[i] for i in range(20) if i not in (7, 19)]
    built = open_split(tmp_path / "out", "train")
    assert without_provenance(read_records(built)) == kept and f"{folder}/train[0]" in built[0].provenance["from"]
    assert without_provenance(read_records(open_split(tmp_path / "out", "test"))) == without_provenance(
        read_records(JsonlSource(folder, "test"))
    )
    assert not (tmp_path / "out" / ".parts").exists()


def test_shards_hold_what_one_file_would_in_order(folder, tmp_path, monkeypatch, preprocessor):
    build(folder, tmp_path / "one", Options(), workers=1)
    monkeypatch.setattr(writing, "SHARD_BYTES", 500)
    facts = build(folder, tmp_path / "many", Options(), workers=1)
    shards = facts["splits"]["train"]["shards"]
    assert len(shards) > 3 and sum(shard["records"] for shard in shards) == 18
    one, many = (open_split(tmp_path / name, "train") for name in ("one", "many"))
    assert list(read_records(one)) == list(read_records(many))
    task = Task("t", 4, 1.0, Budget(16), Budget(8, 1, 4))
    for step in (0, 5):
        a, b = (mixture([task], [source], preprocessor, seed=1)[step][1] for source in (one, many))
        assert np.array_equal(a.query.tokens, b.query.tokens) and np.array_equal(a.target_hash, b.target_hash)
    (tmp_path / "many" / shards[1]["name"]).unlink()
    with pytest.raises(FileNotFoundError, match="not a complete set"):
        open_split(tmp_path / "many", "train")


def test_a_second_build_is_the_first_and_another_spec_is_refused(folder, tmp_path):
    facts = build(folder, tmp_path / "out", Options(), workers=1)
    assert build(folder, tmp_path / "out", Options(), workers=2) == facts
    with pytest.raises(BuildError, match="another spec or other options"):
        build(folder, tmp_path / "out", Options(near=0.9), workers=1)
    with pytest.raises(BuildError, match=r"train: no record can be read; the most common reason: .*not JSON"):
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "train.jsonl").write_text("nothing\n")
        build(tmp_path / "bad", tmp_path / "out2", Options(), workers=1)


SLOW = """
import time
from embed.data.build.formats import by_index
from embed.data.modalities import Text
from embed.data.records import Record
from embed.data.build.spec import Spec

def pairs(i):
    time.sleep(0.02)
    yield Record(str(i), (Text(f"question {i}"),), (Text(f"answer {i}"),))

SPEC = Spec({"train": [part for n in range(8) for part in by_index(f"part {n}", range(10 * n, 10 * n + 10), pairs)]})
"""


def test_a_killed_build_goes_on_and_ends_as_one_that_was_not(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    line = [sys.executable, "-m", "embed", "build", str(tmp_path / "slow.py")]
    process = subprocess.Popen([*line, str(tmp_path / "out"), "--workers=2"], start_new_session=True)
    while len(list((tmp_path / "out").glob(".parts/train/*.npz"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob(".parts/train/*.npz")}
    assert 3 <= len(done) < 8 and not (tmp_path / "out" / "manifest.json").exists()
    assert command.main([*line[3:], str(tmp_path / "out")]) == 0
    build(tmp_path / "slow.py", tmp_path / "whole", Options(), workers=2)
    a, b = (open_split(tmp_path / name, "train") for name in ("out", "whole"))
    assert list(read_records(a)) == list(read_records(b)) and [r.id for r in read_records(a)] == [
        str(i) for i in range(80)
    ]


DEADLY = SLOW.replace("time.sleep(0.02)", "i in (13, 17) and os.abort()").replace("import time", "import os")


def test_a_row_that_ends_the_process_is_left_out_and_named(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    facts = build(tmp_path / "deadly.py", tmp_path / "out", Options(), workers=2)
    assert facts["splits"]["train"]["quarantined"] == {"it crashes the process that decodes it": 2}
    ids = [record.id for record in read_records(open_split(tmp_path / "out", "train"))]
    assert ids == [str(i) for i in range(80) if i not in (13, 17)]


def test_near_duplicates_and_what_is_nearly_asked_are_left_out(tmp_path):
    (found := tmp_path / "near").mkdir()
    story = "The quick brown fox jumps over the lazy dog while nobody looks, number {}, and then it rests for a while."
    rows = [(story.format(1), "a"), (story.format(1).upper(), "A"), (story.format(1), "another"), ("else", "a")]
    (found / "train.jsonl").write_text(
        "\n".join(json.dumps({"query": text(q), "positive": text(p)}) for q, p in [*rows, (story.format(7), "b")])
    )
    (found / "test.jsonl").write_text(json.dumps({"query": text(story.format(8)), "positive": text("b")}))
    facts = build(found, tmp_path / "out", Options(near=0.8), workers=1)["splits"]["train"]
    assert (facts["duplicates"], facts["near duplicates"], facts["records"]) == (0, 1, 1)
    assert facts["overlap with its own test"] == 3


@pytest.fixture
def rows():
    return [{"id": f"r{i}", "caption": f"picture {i}", "image": {"bytes": png(i)}} for i in range(25)]


WANTED = [Record(f"r{i}", (Text(f"picture {i}"),), (Image(png(i)),), lang="en") for i in range(25)]
MAP = """
from embed.data.build import formats
from embed.data.modalities import Image, Text
from embed.data.records import Record
from embed.data.build.spec import Spec

def pairs(row):
    yield Record({id}, (Text({caption}),), (Image({image}),), lang="en")

SPEC = Spec({{"train": {parts}}}, license="CC0")
"""


def test_parquet(rows, tmp_path):
    for number, part in enumerate((rows[:10], rows[10:])):
        path = tmp_path / f"train-{number}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), path, row_group_size=6)
    fields = {"id": 'row["id"]', "caption": 'row["caption"]', "image": 'row["image"]["bytes"]'}
    parts = f"formats.parquet({str(tmp_path / 'train-*.parquet')!r}, pairs)"
    (tmp_path / "map.py").write_text(MAP.format(parts=parts, **fields))
    assert len(spec.load_spec(tmp_path / "map.py").splits["train"]) == 5  # row groups
    build(tmp_path / "map.py", tmp_path / "out", Options(), workers=2)
    built = list(read_records(open_split(tmp_path / "out", "train")))
    assert without_provenance(built) == WANTED and built[17].provenance == {"from": f"{tmp_path}/train-1.parquet[7]"}


def test_webdataset_and_a_tar_that_is_cut_short(rows, tmp_path):
    for number, part in enumerate((rows[:10], rows[10:])):
        with tarfile.open(tmp_path / f"train-{number}.tar", "w") as archive:
            for row in part:
                for name, data in (("txt", row["caption"].encode()), ("png", row["image"]["bytes"])):
                    member = tarfile.TarInfo(f"{row['id']}.{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    fields = {"id": 'row["__key__"]', "caption": 'row["txt"].decode()', "image": 'row["png"]'}
    parts = f"formats.webdataset({str(tmp_path / 'train-*.tar')!r}, pairs)"
    (tmp_path / "map.py").write_text(MAP.format(parts=parts, **fields))
    build(tmp_path / "map.py", tmp_path / "out", Options(), workers=2)
    assert without_provenance(read_records(open_split(tmp_path / "out", "train"))) == WANTED
    with (tmp_path / "train-1.tar").open("r+b") as file:
        file.truncate(5 * 2048 + 700)
    facts = build(tmp_path / "map.py", tmp_path / "cut", Options(), workers=2)["splits"]["train"]
    assert list(facts["quarantined"].values()) == [1] and 10 < facts["records"] < 25
    assert any("the rows after it cannot be read" in why for why in facts["quarantined"])


def test_tfds(tmp_path):
    class Tiny(tensorflow_datasets.core.GeneratorBasedBuilder):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            features = tensorflow_datasets.features
            own = {"id": features.Text(), "caption": features.Text(), "image": features.Image(shape=(None, None, 3))}
            return tensorflow_datasets.core.DatasetInfo(builder=self, features=features.FeaturesDict(own))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(25):
                yield i, {"id": f"r{i}", "caption": f"picture {i}", "image": io.BytesIO(png(i))}

    Tiny(data_dir=str(tmp_path / "tfds"), file_format="array_record").download_and_prepare()
    fields = {"id": 'row["id"].decode()', "caption": 'row["caption"].decode()', "image": 'row["image"]'}
    parts = f"formats.tfds('tiny:1.0.0', 'train', pairs, ['image'], {str(tmp_path / 'tfds')!r})"
    (tmp_path / "map.py").write_text(MAP.format(parts=parts, **fields))
    build(tmp_path / "map.py", tmp_path / "out", Options(), workers=2)
    built = without_provenance(read_records(open_split(tmp_path / "out", "train")))
    assert sorted(built, key=lambda record: int(record.id[1:])) == WANTED  # TFDS shuffles


def test_arrays_become_files_again():
    pixels = np.random.default_rng(0).integers(256, size=(9, 7, 3), dtype=np.uint8)
    assert np.array_equal(decode.decode_image(formats.encode_image(pixels).data), pixels)
    samples = np.sin(np.arange(16_000) / 20).astype(np.float32)
    assert np.abs(decode.decode_audio(formats.encode_audio(samples, 16_000).data) - samples).max() < 1e-4


def test_beir(tmp_path):
    (found := tmp_path / "beir").mkdir()
    (found / "qrels").mkdir()
    documents = [{"_id": f"d{i}", "title": "A title" * (i == 2), "text": f"document {i}"} for i in range(6)]
    (found / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(4)]
    (found / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (found / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\td2\t1\nq0\td3\t0\nq1\td4\t2\nq1\tnowhere\t1\n"
    )
    (found / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td5\t1\nq3\td1\t2\n")
    facts = build(found, tmp_path / "out", Options(), workers=1)
    assert facts["counts"] == {"corpus": 6, "queries": 2, "train": 2} and facts["judgments"]["lost"] == 0
    first, second = read_records(open_split(tmp_path / "out", "train"))
    assert first.positive == (Text("A title\ndocument 2"),) and first.negatives == ((Text("document 3"),),)
    assert second.id == "q1/d4" and second.negatives == ()
    assert any("nowhere" not in why and "no document" in why for why in facts["splits"]["train"]["quarantined"])
    benchmark = from_folder(tmp_path / "out")
    assert len(benchmark.queries) == 2 and benchmark.relevance[1] == {1: 2}
