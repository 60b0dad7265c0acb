import json

import numpy as np
import pytest

from embed.data.modalities import Image, Text
from embed.data.records import Record, RecordError
from embed.eval import benchmarks
from embed.eval.benchmarks import Benchmark, from_folder, from_pairs, rank, score


def text(*values: str):
    return tuple((Text(value),) for value in values)


def test_pairs_of_equal_content_are_one_candidate_with_all_its_answers():
    cat, dog, fox = ((Image(name),) for name in (b"cat", b"dog", b"fox"))
    a, katze, b = text("a cat", "Katze", "a dog")
    records = [
        Record("1", a, cat, (fox, dog)),
        Record("2", katze, cat),
        Record("3", b, dog, (cat,)),
        Record("4", a, cat),
        Record("5", a, dog),
    ]
    forward, backward = from_pairs("pets", records)
    assert (forward.name, backward.name) == ("pets: query→target", "pets: target→query")
    assert forward.queries == (a, katze, b) and forward.corpus == (cat, fox, dog)
    assert forward.relevance == ({0: 1, 2: 1}, {0: 1}, {2: 1})
    assert backward.queries == (cat, dog) and backward.corpus == (a, katze, b)
    assert backward.relevance == ({0: 1, 1: 1}, {2: 1, 0: 1})
    assert from_pairs("pets", records, negatives=False)[0].corpus == (cat, dog)
    assert from_pairs("pets", records, sides=("name", "photo"))[1].name == "pets: photo→name"
    with pytest.raises(ValueError, match="no records"):
        from_pairs("none", [])


@pytest.mark.parametrize(
    "query, kind",
    [((Text("x"),), "text"), ((Image(b"x"),), "image"), ((Text("x"), Image(b"x")), "interleaved")],
)
def test_kind_is_found_from_the_contents(query, kind):
    records = [Record("1", query, (Text("a"),))]
    assert from_pairs("one", records)[0].group == kind
    assert from_pairs("one", records, group="mine")[1].group == "mine"


def test_a_query_is_not_its_own_answer():
    """Translations both ways in one file: the perfect encoder finds the query itself first, and is still perfect."""
    cat, katze, dog, hund = text("cat", "Katze", "dog", "Hund")
    pairs = [(cat, katze), (katze, cat), (dog, hund), (hund, dog)]
    forward, _ = from_pairs("mt", [Record(str(i), q, p) for i, (q, p) in enumerate(pairs)])
    meaning = {cat: [1, 0.1, 0], katze: [1, -0.1, 0], dog: [0, 0.1, 1], hund: [0, -0.1, 1]}
    queries, corpus = (np.array([meaning[c] for c in side], np.float32) for side in (forward.queries, forward.corpus))
    found = score(forward, queries, corpus, (3, 1), ks=(1, 4))
    assert found[3]["hit@1"] == 1 and found[3]["chance@1"] == pytest.approx(1 / 3)
    assert found[3]["queries"] == 4 and found[3]["candidates"] == 4
    scores, order = rank(forward, queries, corpus, 9, 3)
    assert order.shape == (4, 4) and (order[:, -1] == -1).all() and np.isneginf(scores[:, -1]).all()
    # A query that is paired with itself does answer itself.
    assert from_pairs("id", [Record("1", cat, cat)])[0].self_index.tolist() == [-1]


def test_few_label_classification_is_accuracy():
    labels = text("left", "right", "stop")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 40)
    records = [Record(str(i), (Text(f"utterance {i}"),), labels[t]) for i, t in enumerate(truth)]
    forward, _ = from_pairs("orders", records)
    queries = rng.normal(size=(40, 8)).astype(np.float32)
    corpus = rng.normal(size=(3, 8)).astype(np.float32)
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    places = [forward.corpus.index(labels[t]) for t in truth]
    metrics = score(forward, queries, corpus, (8,))[8]
    assert metrics["hit@1"] == pytest.approx(np.mean((queries @ corpus.T).argmax(axis=1) == places))
    assert metrics["hit@10"] == metrics["chance@10"] == 1 and metrics["chance@1"] == pytest.approx(1 / 3)


def test_score_refuses_other_vectors():
    forward, _ = from_pairs("one", [Record("1", *text("a", "b"))])
    with pytest.raises(ValueError, match="one: query→target: 2 query and 1 corpus vectors for 1 queries"):
        score(forward, np.eye(2), np.eye(2)[:1], (2,))
    for relevance in (({},), ({1: 1},), ({0: 0},), ()):
        with pytest.raises(ValueError, match="x: "):
            Benchmark("x", "text", text("a"), text("b"), relevance)


def write_folder(folder, corpus=("c1", "c2"), queries=("q1", "q2"), qrels="q1\tc2\t2\nq1\tc1\t0\n"):
    for file, ids in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        rows = [json.dumps({"id": i, "content": [{"text": f"text of {i}"}], "lang": "en"}) for i in ids]
        (folder / file).write_text("\n".join(rows) + "\n\n")
    (folder / "qrels.tsv").write_text(qrels)


def test_folder(tmp_path):
    write_folder(tmp_path)
    found = from_folder(tmp_path, "text", "mine")
    assert found == Benchmark("mine", "text", text("text of q1"), text("text of c1", "text of c2"), ({1: 2},))
    assert from_folder(tmp_path, "text").name == tmp_path.name


@pytest.mark.parametrize("languages", [("de-en", "", "de-en", "fr-en"), ("de-en", "fr-en", "fr-en", "de-en")])
def test_queries_in_several_languages_are_scored_apart(tmp_path, languages):
    """As the benchmark of one language's queries alone; not where all have one language."""
    write_folder(tmp_path, queries=[f"q{i}" for i in range(4)], qrels="q0\tc1\t1\nq1\tc2\t1\nq2\tc2\t1\nq3\tc1\t1\n")
    rows = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines() if line]
    vectors = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    assert not any("/" in metric for metric in score(from_folder(tmp_path), vectors[:4], vectors[4:], (8,))[8])
    lines = [json.dumps(row | {"lang": language}) for row, language in zip(rows, languages, strict=True)]
    (tmp_path / "queries.jsonl").write_text("\n".join(lines))
    benchmark = from_folder(tmp_path)
    metrics = score(benchmark, vectors[:4], vectors[4:], (8, 4))
    for language in set(languages):
        chosen = [i for i, name in enumerate(languages) if name == language]
        relevance = tuple(benchmark.relevance[i] for i in chosen)
        alone = Benchmark("x", "text", tuple(benchmark.queries[i] for i in chosen), benchmark.corpus, relevance)
        for width, row in metrics.items():
            assert row[f"queries/{language or 'none'}"] == len(chosen)
            assert (
                row[f"ndcg@10/{language or 'none'}"]
                == score(alone, vectors[chosen], vectors[4:], (4, 8))[width]["ndcg@10"]
            )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"qrels": "q1\tc1\t1\nq1\tc2\thigh\n"}, r"qrels\.tsv:2: expected query-id<TAB>"),
        ({"qrels": "q1\tc9\t1\n"}, r"no query has a relevant"),
        ({"qrels": "q9\tc1\t1\n"}, r"no query has a relevant"),
        ({"qrels": "q1\tc1\t-1\n"}, r"no query has a relevant"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, r"no query has a relevant"),
        ({"qrels": "q1\tc1\t0\n"}, r"no query has a relevant"),
        ({"corpus": ("c1", "c1")}, r"corpus, record 2: id 'c1' occurs twice"),
    ],
)
def test_folder_errors_name_file_and_line(tmp_path, change, message):
    write_folder(tmp_path, **change)
    with pytest.raises(RecordError, match=message):
        from_folder(tmp_path, "text")


def test_folder_json_errors(tmp_path):
    write_folder(tmp_path)
    for line, message in (
        ("{", "not JSON"),
        ("[]", "an object"),
        ('{"id": 1, "content": [{"txt": 1}]}', "exactly one of"),
    ):
        (tmp_path / "queries.jsonl").write_text('{"id": "q1", "content": [{"text": "x"}]}\n' + line)
        with pytest.raises(RecordError, match=rf"queries\.jsonl:2: .*{message}"):
            from_folder(tmp_path, "text")


def test_own_is_looked_up_once(monkeypatch):
    forward, _ = from_pairs("one", [Record("1", *text("a", "b"))])
    assert forward.self_index.tolist() == [-1]
    monkeypatch.setattr(benchmarks, "content_hash", None)
    assert forward.self_index.tolist() == [-1]
