"""Judgements are read as TREC's and BEIR's tools read them; what is left out is counted in the log."""

import json

import pytest

from embed.data.qrels import read_qrels
from embed.data.records import RecordError
from embed.eval.benchmarks import from_folder

WANTED = [("q1", "d1", 1), ("q1", "d2", 0), ("q2", "d1", 2)]


def judged(tmp_path, data: str | bytes) -> list[tuple[str, str, int]]:
    (tmp_path / "qrels.tsv").write_bytes(data.encode() if isinstance(data, str) else data)
    return [line[1:] for line in read_qrels(tmp_path / "qrels.tsv")]


@pytest.mark.parametrize(
    "header", ["", "query-id\tcorpus-id\tscore\n", "Query\tDoc\tRelevance\n", "qid did rel\n", "\n\n"]
)
@pytest.mark.parametrize("between", ["\t", " ", "  "])
@pytest.mark.parametrize("iteration", ["", "0", "Q0"])
def test_every_form_is_the_same(tmp_path, header, between, iteration):
    rows = [(q, *filter(None, [iteration]), d, str(grade)) for q, d, grade in WANTED]
    assert judged(tmp_path, header + "\n".join(map(between.join, rows)) + "\n\n") == WANTED
    assert judged(tmp_path, header + "\r\n".join(map(between.join, rows))) == WANTED


def test_a_header_of_four_columns_is_one(tmp_path):
    rows = "qid\titer\tdocid\trel\nq1\t0\td1\t1\nq1\t0\td2\t0\nq2\t0\td1\t2\n"
    assert judged(tmp_path, rows) == WANTED


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_obeyed(tmp_path, encoding):
    assert judged(tmp_path, "größe\tß\t1\nq\t猫\t0\n".encode(encoding)) == [("größe", "ß", 1), ("q", "猫", 0)]


def test_fractions_are_cut_as_trec_eval_does_and_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    assert judged(tmp_path, "q1\td1\t1.0\nq1\td2\t0.0\nq2\td1\t2e0\n") == WANTED
    assert not caplog.text
    assert [grade for *_, grade in judged(tmp_path, "q\ta\t0.5\nq\tb\t-0.5\nq\tc\t1.9\n")] == [0, 0, 1]
    assert "3 grades are truncated to integers, as trec_eval does; line 1: 0.5 is 0" in caplog.text


@pytest.mark.parametrize(
    "data, message",
    [
        ("q1\td1\t1\nq1\td2\thigh\n", r"qrels\.tsv:2: expected"),
        ("q1\td1\t1\nq1\td2\tNaN\n", r"qrels\.tsv:2: expected"),
        ("q1\td1\n", r"qrels\.tsv:1: expected"),
        ("q1\t0\td1\t1\trun\n", r"qrels\.tsv:1: expected"),
        ("q1\td1\t1e99\n", r"qrels\.tsv:1: relevance 1e99 is out of range"),
        ("größe\td1\t1\n".encode("latin-1"), r"qrels\.tsv: not UTF-8 text"),
        ("q1\td1\t1\n".encode("utf-16-le"), r"qrels\.tsv: it seems to be UTF-16LE"),
    ],
)
def test_what_cannot_be_read_names_the_file_and_the_line(tmp_path, data, message):
    with pytest.raises(RecordError, match=message):
        judged(tmp_path, data)


@pytest.mark.parametrize("more", ["q1\tgone\t1\n", "gone\td1\t1\n", "gone\tgone\t0\n"])
def test_dangling_ids_are_counted_with_an_example(tmp_path, caplog, more):
    caplog.set_level("INFO")
    for name, ids in (("corpus", ("d1", "d2")), ("queries", ("q1", "q2"))):
        lines = [json.dumps({"id": key, "content": [{"text": f"{name} {key}"}]}) for key in ids]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "qrels.tsv").write_text("q1\td2\t1\nq2\td1\t2\n")
    whole = from_folder(tmp_path)
    assert not caplog.text
    (tmp_path / "qrels.tsv").write_text("q1\td2\t1\n" + more + "q2\td1\t2\n")
    assert from_folder(tmp_path) == whole
    [message] = [record.getMessage() for record in caplog.records]
    assert "1 of 3 judgments are skipped; the first: " in message
    assert "qrels.tsv:2: no " in message and "'gone'" in message and "\n" not in message
