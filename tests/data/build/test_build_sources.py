"""Sources of every format with nulls, other encodings and broken files; bugs in code are told apart from bad rows."""

import dataclasses
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import traceback

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from test_build import SLOW, png

from embed import __main__ as command
from embed.data import modalities
from embed.data.build import formats, read_parts, spec
from embed.data.build.build import BuildError, Options, build
from embed.data.media import decode
from embed.data.modalities import Image, Text
from embed.data.records import Record, RecordError, from_bytes
from embed.data.sources import open_split, read_records


def write_pairs(folder, count: int, split: str = "train", **more) -> None:
    folder.mkdir(exist_ok=True)
    rows = [{"id": f"{i}", "query": [{"text": f"{split} {i}"}], "positive": [{"text": f"p {i}"}]} for i in range(count)]
    (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row | more) for row in rows))


def read_all(path, split: str = "train") -> list[Record | str]:
    """Read all parts of a spec in this process: records, or the reason where there is none."""
    outcomes: list[Record | str] = []
    for number in range(len(spec.load_spec(path).splits[split])):
        job = read_parts.PartJob(path, split, number, path.parent / f"{number}", near=False)
        for _, info in read_parts._iter_record_infos(job):
            if isinstance(info, Exception):
                outcomes.append(str(info))
            else:
                record = from_bytes(info.data)
                outcomes.append(Record(record.id, record.query, record.positive, record.negatives, record.lang))
    return outcomes


def test_a_build_is_a_source_and_what_to_evaluate_on(tmp_path):
    write_pairs(tmp_path / "pairs", 6)
    write_pairs(tmp_path / "pairs", 2, "test")
    (tmp_path / "pairs" / "meta.json").write_text(json.dumps({"source": "here", "license": "CC0", "task": None}))
    one, two = tmp_path / "one", tmp_path / "two"
    first = build(tmp_path / "pairs", one, Options(), workers=1)
    second = build(one, two, Options(against=(one,)), workers=1)
    assert (one / "quarantine.jsonl").read_bytes() == b""
    assert second["counts"] == first["counts"] == {"test": 2, "train": 6}
    assert (second["source"], second["license"], second["task"]) == ("here", "CC0", "")
    assert [record.id for record in read_records(open_split(two, "train"))] == [f"{i}" for i in range(6)]
    for source, out in ((one, one), (tmp_path / "pairs", tmp_path / "pairs" / ".." / "pairs")):
        with pytest.raises(BuildError, match="is an input of this build: give another output folder"):
            build(source, out, Options(), workers=1)


def test_an_empty_split_is_named_before_anything_is_read(tmp_path, capsys):
    write_pairs(tmp_path / "pairs", 3)
    for data in (b"", b"\n \r\n"):
        (tmp_path / "pairs" / "dev.jsonl").write_bytes(data)
        assert command.main(["build", str(tmp_path / "pairs"), str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.startswith("error: dev: it is empty: ")
    write_pairs(tmp_path / "whole", 3)
    assert command.main(["build", str(tmp_path / "whole"), str(tmp_path / "o"), "--against", str(tmp_path / "pairs")])
    assert "error: dev: it is empty: " in capsys.readouterr().err


def test_pairs_and_a_benchmark_in_one_folder_are_all_built(tmp_path):
    write_pairs(tmp_path / "both", 3)
    for name, count in (("corpus", 3), ("queries", 2)):
        rows = [json.dumps({"id": i, "content": [{"text": f"{name} {i}"}], "lang": None}) for i in range(count)]
        (tmp_path / "both" / f"{name}.jsonl").write_text("\n".join(rows))
    (tmp_path / "both" / "qrels.tsv").write_text("query\tdoc\tgrade\n0\t2\t1.0\n1\t0\t1\n1\t9\t1\n")
    facts = build(tmp_path / "both", tmp_path / "out", Options(), workers=1)
    assert facts["counts"] == {"corpus": 3, "queries": 2, "train": 3}
    assert facts["judgments"] == {"records": 2, "lost": 1}
    assert (tmp_path / "out" / "qrels.tsv").read_text() == "0\t2\t1\n1\t0\t1\n"
    (tmp_path / "both" / "queries.jsonl").unlink()
    with pytest.raises(spec.SpecError, match="there is no queries"):
        spec.load_spec(tmp_path / "both")


MAP = """
from embed.data import modalities
from embed.data.build import formats
from embed.data.modalities import Image, Text
from embed.data.records import Record
from embed.data.build.spec import Spec

def pairs(row):
    {function}

SPEC = Spec({{"train": formats.{reader}({pattern!r}, pairs)}})
"""
RECORD = 'yield Record(row["id"], (Text(row["text"]),), (Image(row["image"]["bytes"]),), row["others"], row["lang"])'


def write_map(folder, reader: str, pattern: str, function: str):
    (folder / "map.py").write_text(MAP.format(reader=reader, pattern=str(folder / pattern), function=function))
    return folder / "map.py"


def write_table(path, rows: list[dict]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_nulls_of_parquet_are_absence_or_the_fault_of_one_row(tmp_path):
    whole = {"id": 7, "text": "q", "image": {"bytes": png(1)}, "others": [], "lang": "en"}
    rows = [whole | {key: None} for key in whole] + [whole]
    write_table(tmp_path / "a.parquet", rows)
    wanted = Record("7", (Text("q"),), (Image(png(1)),), (), "en")
    no_id, no_text, no_image, no_others, no_lang, found = read_all(write_map(tmp_path, "parquet", "*.parquet", RECORD))
    assert found == no_others == wanted
    assert (no_id.id, no_id.query) == (f"{tmp_path}/a.parquet[0]", wanted.query)
    assert no_lang == Record("7", wanted.query, wanted.positive)
    assert no_text == f"{tmp_path}/a.parquet[1]: query[0]: text: expected a string, got None"
    assert no_image == "'NoneType' object is not subscriptable"


def test_a_string_that_is_not_utf_8_is_the_fault_of_one_row(tmp_path):
    strings = pyarrow.array([b"a", b"gr\xf6\xdfer", b"c"]).cast(pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": strings}), tmp_path / "a.parquet")
    function = 'yield Record("0", (Text(row["text"]),), (Text(row["text"]),))'
    first, second, third = read_all(write_map(tmp_path, "parquet", "a.parquet", function))
    assert (first.query, third.query) == ((Text("a"),), (Text("c"),)) and "utf-8" in second


def test_a_broken_parquet_file_of_many_is_named(tmp_path):
    function = 'yield Record(str(row["id"]), (Text("q"),), (Text("p"),))'
    for name in "abc":
        write_table(tmp_path / f"{name}.parquet", [{"id": i, "noise": os.urandom(50)} for i in range(100)])
    path = write_map(tmp_path, "parquet", "[a-c].parquet", function)
    assert len(read_all(path)) == 300
    data = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(data[:200] + bytes(2000) + data[2200:])  # its footer is whole
    found = read_all(path)
    assert len([one for one in found if isinstance(one, Record)]) >= 200
    [why] = [one for one in found if isinstance(one, str)]
    assert f"the rows after it cannot be read: {tmp_path}/b.parquet: row group 0 is broken" in why
    for broken in (b"", b"version https://git-lfs.github.com/spec/v1\n", data[:-100]):
        (tmp_path / "b.parquet").write_bytes(broken)
        with pytest.raises(RecordError, match=rf"{tmp_path}/b\.parquet is not a complete Parquet file"):
            spec.load_spec(path)


def write_tar(path, files: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path.read_bytes()


WORDS = 'yield Record(row["__key__"], (Text(row["txt"].decode()),), (Text("p"),))'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_texts_of_a_tar_are_read_by_their_mark_or_refused(encoding, tmp_path):
    texts = {"a.txt": "größer 猫".encode(encoding), "b.txt": "größer".encode("latin-1"), "c.txt": b"c"}
    write_tar(tmp_path / "a.tar", texts)
    first, second, third = read_all(write_map(tmp_path, "webdataset", "a.tar", WORDS))
    assert (first.query, third.query) == ((Text("größer 猫"),), (Text("c"),))
    assert second.startswith("txt: not UTF-8 text: byte 0xf6 at 2")


DAMAGE = {
    "cut": lambda data: data[: len(data) // 3],
    "cut between two files": lambda data: data[: 5 * 2048],
    "a broken header": lambda data: data[:2048] + b"x" * 512 + data[2560:],
    "empty": lambda data: b"",
    "another kind": lambda data: b"x" * 2000,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: gzip.compress(data)[:-30]])
def test_a_broken_tar_of_many_is_named(damage, pack, tmp_path):
    for name in "abc":
        data = write_tar(tmp_path / f"{name}.tar", {f"{name}{i}.txt": os.urandom(600).hex().encode() for i in range(9)})
    path = write_map(tmp_path, "webdataset", "*.tar", WORDS)
    assert len(read_all(path)) == 27
    (tmp_path / "b.tar").write_bytes(pack(damage(data)))
    found = read_all(path)
    [why] = [one for one in found if isinstance(one, str)]
    assert f"{tmp_path}/b.tar: not a complete tar file: " in why and 18 <= len(found) - 1 < 27


def test_brackets_in_a_name_are_of_the_name(tmp_path):
    (folder := tmp_path / "runs[1]").mkdir()
    write_tar(folder / "a.tar", {"a.txt": b"q"})
    assert formats.list_files(folder / "a.tar") == [str(folder / "a.tar")]
    write_pairs(folder, 3, "my[2]")
    assert build(folder, tmp_path / "out[1]", Options(), workers=1)["counts"] == {"my[2]": 3}
    assert len(open_split(tmp_path / "out[1]", "my[2]")) == 3


@pytest.mark.parametrize(
    "function, error",
    [
        ("import json; yield json.loads(7)", TypeError),  # in the library, whatever the row is
        ("import no_such_module", ImportError),
        ("yield no_such_name", NameError),
        ("pass", TypeError),  # it makes nothing
        ("yield {}", TypeError),
    ],
)
def test_a_defect_ends_a_build_and_names_the_row(function, error, tmp_path):
    write_tar(tmp_path / "a.tar", {"a.txt": b"q"})
    with pytest.raises(error) as caught:
        read_all(write_map(tmp_path, "webdataset", "a.tar", function))
    assert f"{tmp_path}/a.tar: a" in "".join(traceback.format_exception(caught.value))


def test_a_defect_of_a_decoder_is_no_record_s_fault(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(1))
    write_pairs(tmp_path, 1, positive=[{"image": "a.png"}])
    broken = dataclasses.replace(modalities.IMAGE, decode=lambda: None)  # as after a change of a library's interface
    monkeypatch.setitem(modalities._BY_PART, Image, broken)
    with pytest.raises(TypeError):
        read_all(tmp_path)


def test_every_record_of_a_row_is_looked_at(tmp_path):
    write_tar(tmp_path / "a.tar", {"a.txt": b"q"})
    function = 'for t in ("1", None, "3"): yield Record(t, (Text(t),), (Text("p"),))'
    first, second, third = read_all(write_map(tmp_path, "webdataset", "a.tar", function))
    assert (first.id, third.id) == ("1", "3") and "text: expected a string" in second


def test_one_bad_line_of_a_corpus_does_not_end_beir(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": 1, "text": "d1"}\n[[\n{"_id": 3, "text": "d3", "title": null}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": 1, "text": "q1"}\n')
    (tmp_path / "qrels" / "train.tsv").write_text("1 0 3 1\n1 0 1 0\n1 0 gone 0\n")
    assert read_all(tmp_path) == [Record("1/3", (Text("q1"),), (Text("d3"),), ((Text("d1"),),))]
    assert "1 of 3 lines cannot be read; the first: " in caplog.text and "corpus.jsonl:2: not JSON" in caplog.text


def test_arrays_of_tfds_are_files_or_refused():
    for shape in ((8, 9), (8, 9, 1), (8, 9, 3), (8, 9, 4)):
        assert decode.decode_image(formats.encode_image(np.full(shape, 255, np.uint8)).data).shape == (8, 9, 3)
    for pixels in (np.zeros((8, 9, 2), np.uint8), np.zeros((2, 8, 9, 3), np.uint8), np.zeros((8, 9, 3))):
        with pytest.raises(ValueError, match="pixels"):
            formats.encode_image(pixels)
    wave = (np.sin(np.arange(16_000) / 20) * 20_000).astype(np.int16)
    assert formats.encode_audio(wave.astype(np.int64), 16_000) == formats.encode_audio(wave, 16_000)
    with pytest.raises(ValueError, match="do not fit 16"):
        formats.encode_audio(wave.astype(np.int64) * 9, 16_000)


def test_a_folder_is_built_by_one_process_and_a_killed_one_keeps_nobody_away(tmp_path, capsys):
    (tmp_path / "slow.py").write_text(SLOW)
    line = ["build", str(tmp_path / "slow.py"), str(tmp_path / "out"), "--workers=1"]
    with subprocess.Popen([sys.executable, "-m", "embed", *line], stderr=subprocess.PIPE, text=True) as process:
        while not list((tmp_path / "out").glob(".parts/train/*.npz")):
            assert process.poll() is None
            time.sleep(0.01)
        assert command.main(line) == 2
        [message] = capsys.readouterr().err.splitlines()
        assert message.startswith(f"error: {tmp_path / 'out'}: another process is writing there (process {process.pid}")
        process.send_signal(signal.SIGKILL)  # it alone: the processes it started see to their own end
        process.stderr.read()  # which is when nobody can write there
    assert command.main(line) == 0
    assert [record.id for record in read_records(open_split(tmp_path / "out", "train"))] == [str(i) for i in range(80)]
