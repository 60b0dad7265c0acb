"""A line, a message or a file is a record or a RecordError that says where: nulls are absence, nothing else passes."""

import json
import os

import msgpack
import numpy as np
import pytest

from embed.data.build.formats import parse_beir
from embed.data.jsonl import parse_graded, parse_item, parse_line
from embed.data.modalities import Image, Text
from embed.data.records import Record, RecordError, from_bytes, to_bytes, validate
from embed.data.sources import JsonlSource, list_splits, open_split, read_records
from embed.data.writing import write_records
from embed.retrieval.corpus_embeddings import read_pairs
from embed.training import prepare

PAIR = {"id": "x", "query": [{"text": "q"}], "positive": [{"text": "p"}]}
WANTED = Record("x", (Text("q"),), (Text("p"),))
NULLS = {"text": None, "image": None, "audio": None, "video": None, "pdf": None}
LINES = {
    parse_line: PAIR,
    parse_item: {"id": "x", "content": [{"text": "q"}]},
    parse_graded: {"id": "x", "a": [{"text": "q"}], "b": [{"text": "p"}], "score": 0.5},
    parse_beir: {"_id": "x", "text": "q"},
}


def line(value) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("field", ["label", "lang", "negatives", "id"])
def test_null_is_absence_in_a_line(field, tmp_path):
    without = {key: value for key, value in PAIR.items() if key != field}
    wanted = parse_line(line(without), tmp_path, "here:1")
    assert parse_line(line(without | {field: None}), tmp_path, "here:1") == wanted
    assert (wanted.lang, wanted.label, wanted.negatives) == ("", "", ())


@pytest.mark.parametrize("parse, field", [(parse_item, "lang"), (parse_graded, "lang"), (parse_graded, "id")])
def test_null_is_absence_in_every_reader(parse, field, tmp_path):
    without = {key: value for key, value in LINES[parse].items() if key != field}
    nulled = parse(line(without | {field: None}), tmp_path, "here:1")
    assert nulled == parse(line(without), tmp_path, "here:1")


@pytest.mark.parametrize("parse, field", [(parse_item, "id"), (parse_item, "content"), (parse_beir, "_id")])
def test_a_field_that_has_to_be_there_is_not_null(parse, field, tmp_path):
    with pytest.raises(RecordError, match=r"here:1: .*expected"):
        parse(line(LINES[parse] | {field: None}), tmp_path, "here:1")


def test_a_part_with_nulls_is_the_part_that_is_not_null(tmp_path):
    (tmp_path / "a.png").write_bytes(b"some bytes")
    row = PAIR | {"query": [NULLS | {"text": "q"}, NULLS | {"image": "a.png"}], "negatives": [[NULLS | {"text": "n"}]]}
    found = parse_line(line(row), tmp_path, "here")
    assert found == Record("x", (Text("q"), Image(b"some bytes")), (Text("p"),), ((Text("n"),),))
    for part in (NULLS, {"text": None}, None, NULLS | {"text": "q", "image": "a.png"}, {"text": 7}):
        with pytest.raises(RecordError, match=r"here: query\[0\]: a part has exactly one of"):
            parse_line(line(PAIR | {"query": [part]}), tmp_path, "here")


def test_null_is_absence_in_a_message_and_in_what_a_function_makes():
    sides = [["text", "q"]], [["text", "p"]]
    assert from_bytes(msgpack.packb(["x", *sides, None, None, None, None])) == WANTED
    assert from_bytes(msgpack.packb([None, *sides, []]), "here[3]").id == "here[3]"
    assert validate(Record("x", WANTED.query, WANTED.positive, None, None, None, None), "here") == WANTED
    assert validate(Record(7, WANTED.query, WANTED.positive, label=np.int64(3)), "here").label == "3"
    for content in ((Text(None),), (Image(None),), (Text(b"q"),), (Image("q"),), ("q",), None, ()):
        with pytest.raises(RecordError, match="here: query"):
            validate(Record("x", content, WANTED.positive), "here")


def test_beir_without_a_title_and_with_a_null_one_is_the_text(tmp_path):
    for title in ({}, {"title": None}, {"title": ""}):
        assert parse_beir(line({"_id": 3, "text": "q"} | title), tmp_path, "here").query == (Text("q"),)
    for wrong in ({"title": 5}, {"title": ["a"]}, {"text": None}):
        with pytest.raises(RecordError, match="here: expected an object with _id and text"):
            parse_beir(line({"_id": 3, "text": "q"} | wrong), tmp_path, "here")


def test_mining_sees_no_label_where_it_is_null(tmp_path):
    for name, more in (("without", {}), ("null", {"label": None, "lang": None})):
        (tmp_path / name).mkdir()
        rows = [PAIR | {"query": [{"text": f"q{i}"}]} | more for i in range(3)]
        (tmp_path / name / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    without, null = (open_split(tmp_path / name, "train") for name in ("without", "null"))
    assert read_pairs(null).label_hashes.tolist() == read_pairs(without).label_hashes.tolist() == [0, 0, 0]
    assert [record.lang for record in read_records(null)] == [""] * 3


BOMBS = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"id": "x", "query": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"id": ' + b"9" * 10_000 + b"}",
]


@pytest.mark.parametrize("bomb", BOMBS, ids=range(4))
def test_a_bomb_is_one_bad_record(bomb, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(line(PAIR) + b"\n" + bomb + b"\n" + line(PAIR))
    source = JsonlSource(tmp_path, "train")
    assert source[0] == source[2] == WANTED
    with pytest.raises(RecordError, match=r"train\.jsonl:2: not JSON"):
        source[1]
    assert list(prepare._texts(source)) == ["q", "p"] * 2  # what a tokenizer is trained on


@pytest.mark.parametrize("field", ["query", "negatives", "label", "id"])
def test_nesting_that_the_parser_stands_is_named_not_printed(field, tmp_path):
    deep = json.loads("[" * 900 + "]" * 900)
    with pytest.raises(RecordError, match=f"here: {field}") as caught:
        parse_line(line(PAIR | {field: deep}), tmp_path, "here")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("field", ["id", "lang", "label"])
def test_half_a_surrogate_pair_is_named(field, tmp_path):
    with pytest.raises(RecordError, match=f"here: {field}: character 1 is half a surrogate pair"):
        parse_line(line(PAIR | {field: "a\ud800"}), tmp_path, "here")
    with pytest.raises(RecordError, match="here: text: character 1 is half a surrogate pair"):
        parse_beir(line({"_id": "x", "text": "a\ud800"}), tmp_path, "here")


@pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity", "true", "null", '"1"', "1" + "0" * 400])
def test_a_score_is_a_finite_number(score, tmp_path):
    text = json.dumps(LINES[parse_graded]).replace("0.5", score)
    with pytest.raises(RecordError, match="here: score: expected a finite number"):
        parse_graded(text.encode(), tmp_path, "here")


def test_bytes_are_a_record_or_a_record_error():
    rng = np.random.default_rng(0)
    whole = to_bytes(Record("x", (Text("q"), Image(b"1234")), (Text("p"),), ((Text("n"),),), "en", "l", {"a": "b"}))
    kept = 0
    for n in range(3000):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(len(data), size=1 + n % 3)] = rng.integers(256, size=1 + n % 3)
        try:
            to_bytes(from_bytes(data.tobytes()))
            kept += 1
        except RecordError as error:
            assert str(error).startswith("a record: ")
    assert 100 < kept < 2900
    for value in (None, 7, [], [[]] * 4, ["x", 3, 4, 5], ["x", [[["a"], 1]], [], []], ["x", [], [], [], 1, 2, 3, 4]):
        with pytest.raises(RecordError):
            from_bytes(msgpack.packb(value))


def split_of(folder, data: bytes) -> JsonlSource:
    (folder / "train.jsonl").write_bytes(data)
    return JsonlSource(folder, "train")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_lines_in_a_wide_encoding_are_refused_together(encoding, tmp_path):
    text = "\r\n".join(json.dumps(PAIR | {"query": [{"text": "猫と犬"}]}, ensure_ascii=False) for _ in range(5))
    with pytest.raises(RecordError, match=rf"train\.jsonl is in {encoding[:6].upper()}.*iconv -f UTF-"):
        split_of(tmp_path, text.encode(encoding))


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le"])
def test_one_line_in_another_encoding_is_one_bad_record(encoding, tmp_path):
    other = json.dumps(PAIR | {"query": [{"text": "größer"}]}, ensure_ascii=False).encode(encoding)
    source = split_of(tmp_path, line(PAIR) + b"\n" + other.replace(b"\n", b"") + b"\n" + line(PAIR))
    assert source[0] == source[2] == WANTED
    with pytest.raises(RecordError, match=r"train\.jsonl:2: not JSON: .*iconv"):
        source[1]


def test_a_utf_8_mark_is_dropped_also_where_files_were_joined(tmp_path):
    text = json.dumps(PAIR | {"query": [{"text": "größer"}]}, ensure_ascii=False).encode("utf-8-sig")
    source = split_of(tmp_path, text + b"\n" + text + b"\n")
    assert [record.query for record in read_records(source)] == [(Text("größer"),)] * 2


def test_a_medium_that_is_no_file_is_one_bad_record(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "loop.png", "folder.png", "a" * 5000 + ".png"):
        with pytest.raises(RecordError, match=r"here: query\[0\]: "):
            parse_line(line(PAIR | {"query": [{"image": name}]}), tmp_path, "here")


def test_a_broken_file_of_many_is_named(tmp_path):
    for number in range(3):
        write_records(tmp_path / f"train-{number:05}-of-00003.array_record", [WANTED] * 50)
    assert len(open_split(tmp_path, "train")) == 150
    path = tmp_path / "train-00001-of-00003.array_record"
    whole = path.read_bytes()
    for data in (b"", b"no records", whole[: len(whole) // 2], bytes(len(whole))):
        path.write_bytes(data)
        with pytest.raises(RecordError, match=rf"{path}: not an ArrayRecord file"):
            open_split(tmp_path, "train")


def test_what_a_build_left_out_is_no_split(tmp_path):
    for name in ("train", "quarantine", "quarantined"):
        (tmp_path / f"{name}.jsonl").touch()
    assert list_splits(tmp_path) == ["quarantined", "train"]


def test_corpus_and_queries_are_items_by_name(tmp_path):
    for name in ("corpus", "queries"):
        (tmp_path / f"{name}.jsonl").write_bytes(line(LINES[parse_item]))
        assert open_split(tmp_path, name)[0] == Record("x", (Text("q"),), ())
