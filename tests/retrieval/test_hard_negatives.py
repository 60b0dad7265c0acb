"""Hard negatives are never right answers by what is known, nor close to the positive; vectors are made once."""

import json

import jax
import numpy as np
import pytest
from conftest import ARCH

from configs import cpu
from embed import __main__ as command
from embed.data.modalities import Text
from embed.data.sources import JsonlSource, open_split, read_records
from embed.embedder import Embedder
from embed.model.build import build
from embed.model.encoder import init_params
from embed.model.matryoshka import truncate_dim
from embed.model.presets import PRESETS
from embed.retrieval import corpus_embeddings, mined_datasets
from embed.retrieval.corpus_embeddings import embed_contents, read_pairs
from embed.retrieval.hard_negatives import (
    FALSE_NEGATIVE,
    KNOWN_POSITIVE,
    NEGATIVE,
    NONE,
    MiningRule,
    fuse,
    mine,
    select,
)
from embed.training.metadata import metadata_for, read_metadata
from embed.training.weights import save_params
from experiments.studies import arms, negatives


def test_choose_takes_the_best_that_are_free():
    rng = np.random.default_rng(0)
    for _ in range(50):
        count, k = rng.integers(1, 5), rng.integers(1, 9)
        ranking = np.stack([rng.permutation(20)[:k] for _ in range(6)]).astype(np.int32)
        ranking[rng.random(ranking.shape) < 0.1] = NONE
        scores = -np.sort(-rng.uniform(-1, 1, (2, 6, k)), axis=-1)
        positive, answers = rng.uniform(-1, 1, (2, 6)), rng.random((6, k)) < 0.2
        found, status = select(ranking, scores, positive, answers, MiningRule(int(count), int(k), 0.9))
        assert found.shape == (6, count)
        for q in range(6):
            limit = positive[:, q] - 0.1 * np.abs(positive[:, q])
            free = [
                c
                for j, c in enumerate(ranking[q])
                if c != NONE and not answers[q, j] and (scores[:, q, j] <= limit).all()
            ]
            assert [c for c in found[q] if c != NONE] == free[:count]
            assert (found[q] != NONE).sum() == (status[q] == NEGATIVE).sum()


def test_fused_ranking_is_the_sum_of_reciprocal_ranks():
    first, second = np.array([[4, 2, 7, NONE]], np.int32), np.array([[7, 9, 4, 2]], np.int32)
    # 4: 1/61 + 1/63, 7: 1/63 + 1/61, 2: 1/62 + 1/64, 9: 1/62
    assert fuse([first, second], 4).tolist() == [[4, 7, 2, 9]]
    assert fuse([first, second], 2).tolist() == [[4, 7]] and fuse([first], 5).tolist() == [[4, 2, 7, NONE, NONE]]


LINES = [  # query, positive, label, negatives
    ("a", "A", "", ["x"]),
    ("a", "A2", "", []),
    ("b", "B", "red", []),
    ("c", "C", "red", ["b"]),
    ("d", "D", "", ["a"]),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pairs" / "letters").mkdir(parents=True)
    rows = [
        {
            "query": [{"text": q}],
            "positive": [{"text": p}],
            "label": label,
            "negatives": [[{"text": n}] for n in others],
        }
        for q, p, label, others in LINES
    ]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "pairs" / "letters" / "train.jsonl").write_text("\n".join([*lines[:2], "broken", *lines[2:]]) + "\n")
    return tmp_path / "pairs"


def test_what_is_known_to_be_right_is_no_negative(folder):
    found = read_pairs(JsonlSource(folder / "letters", "train"))
    assert found.records.tolist() == [0, 1, 3, 4, 5] and len(found.queries) == 4
    words = [found.corpus[i][0].text for i in range(len(found.corpus))]
    assert sorted(words) == ["A", "A2", "B", "C", "D", "a", "b", "x"]
    rng = np.random.default_rng(0)
    asked, corpus = (np.abs(truncate_dim(rng.normal(size=(n, 16)), 16)) for n in (4, 8))
    mined = mine(found, [(asked, corpus)], np.array([word != "x" for word in words]), MiningRule(8, 8, 10.0))
    got = [{words[place] for place in row if place != NONE} for row in mined.negatives]
    # not a positive of an equal query, not the query itself, not what has its label, not what has no vector
    assert got == [{"B", "C", "D", "b"}] * 2 + [
        {"A", "A2", "D", "a"},
        {"A", "A2", "D", "a", "b"},
        {"A", "A2", "B", "C", "a", "b"},
    ]
    strict = mine(found, [(asked, corpus)], np.ones(8, bool), MiningRule(8, 8, 0.9))
    negative = strict.status == NEGATIVE
    assert (strict.scores[negative] <= (0.9 * strict.positive[:, None] + 0 * strict.scores)[negative]).all()
    assert (strict.status == FALSE_NEGATIVE).any() and (strict.status == KNOWN_POSITIVE).any()


@pytest.fixture
def model(tmp_path, tokenizer, preprocessor, monkeypatch):
    monkeypatch.setenv("EMBED_CACHE", str(tmp_path / "cache"))
    save_params(
        tmp_path / "model",
        init_params(build(ARCH), jax.random.key(0)),
        metadata_for(ARCH, preprocessor),
        tokenizer,
    )
    return tmp_path / "model"


def test_vectors_are_made_once_and_gone_on_with(folder, model, monkeypatch):
    monkeypatch.setattr(corpus_embeddings, "BLOCK_ROWS", 3)
    embedder, contents = Embedder.load(model), read_pairs(JsonlSource(folder / "letters", "train")).corpus
    wanted = embedder.embed([contents[i][0].text for i in range(8)], task="document")
    made, blocks = corpus_embeddings._embed_block, []

    def stops_at_the_third(embedder, contents, numbers, task, tokens):
        blocks.append(numbers.start)
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return made(embedder, contents, numbers, task, tokens)

    monkeypatch.setattr(corpus_embeddings, "_embed_block", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        embed_contents(embedder, contents, "document", 64)
    found, known = embed_contents(embedder, contents, "document", 64)
    assert blocks == [0, 3, 6, 6] and known.all()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.array_equal(embed_contents(embedder, contents, "document", 64)[0], found) and len(blocks) == 4
    assert not np.allclose(embed_contents(embedder, contents, None, 64)[0], found) and len(blocks) == 7


def test_a_long_candidate_has_the_vector_of_its_beginning(folder, model):
    long = [{"text": "red " * 9000}]
    rows = [{"query": [{"text": "a"}], "positive": long}, {"query": long, "positive": [{"text": "red " * 900}]}]
    (folder / "letters" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    embedder, found = Embedder.load(model), read_pairs(JsonlSource(folder / "letters", "train"))
    for contents in (found.queries, found.corpus):
        made, known = embed_contents(embedder, contents, None, 64)
        assert known.all() and len(made) == 2
    assert np.array_equal(made[0], made[1])


@pytest.mark.parametrize("absent", [{"label": ""}, {"label": None}, {"label": None, "lang": None, "negatives": None}])
def test_no_label_is_no_common_label(folder, absent):
    """Records without a label are candidates for each other, however that is written."""
    rows = [{"query": [{"text": f"find {i}"}], "positive": [{"text": f"about {i}"}]} | absent for i in range(8)]
    (folder / "letters" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_pairs(JsonlSource(folder / "letters", "train"))
    assert not found.label_hashes.any()
    vectors = np.eye(8, dtype=np.float32)
    mined = mine(
        found, [(vectors, vectors[found.queries.index_of(found.query_hashes)])], np.ones(8, bool), MiningRule(4, 8)
    )
    assert (mined.negatives != NONE).all()


def test_the_experiment_writes_datasets_and_a_page(folder, model, tmp_path, process_state):
    assert command.main(["mine", str(model), str(folder), "--workdir", str(tmp_path / "runs")]) == 0
    records = list(read_records(open_split(tmp_path / "runs" / "mined" / "letters", "train")))
    assert [record.id.rpartition(":")[2] for record in records] == ["1", "2", "4", "5", "6"]
    for record, (query, positive, label, _) in zip(records, LINES, strict=True):
        assert (record.query, record.positive, record.label) == ((Text(query),), (Text(positive),), label)
        if "negatives" in record.provenance:
            assert 1 <= len(record.negatives) <= mined_datasets.DEFAULT_RULE.count
            assert not {(Text(query),), (Text(positive),)} & set(record.negatives)
    page = (tmp_path / "runs" / "mined" / "audit.html").read_text()
    assert "letters" in page and page.count("<b>the positive</b>") == len(LINES) and "<script" not in page


@pytest.mark.slow
def test_negatives_are_compared(folder, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "tiny", ARCH)
    monkeypatch.setattr(negatives, "SEEDS", (0, 1))
    monkeypatch.setattr(arms, "SEEDS", (0, 1))
    lines = (folder / "letters" / "train.jsonl").read_text()
    (folder / "letters" / "test.jsonl").write_text(lines.replace("broken\n", ""))
    config = cpu.get_config()
    config.update({"pairs": str(folder), "workdir": str(tmp_path / "runs"), "steps": 1})
    negatives.main(config, str(model))
    table = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("| nDCG@10 | none | random | mined | 4_random | 4_mined | random − none |") for line in table
    )
    assert sum(line.startswith("| letters: ") and line.count("±") == 9 for line in table) == 2
    for name, (_, count) in negatives.ARMS.items():
        told = read_metadata(tmp_path / "runs" / "negatives" / f"{name}_1")
        assert [task["negatives"] for task in told["tasks"]] == [count]
