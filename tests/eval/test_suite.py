"""What of your datasets is tested, and how: pairs or a benchmark, texts of any length, names that can be told apart."""

import json
import pathlib

import jax
import numpy as np
import pytest
from conftest import ARCH

from configs import cpu
from embed import toy_corpora
from embed.data.discover import DatasetError
from embed.data.media.decode import MediaError
from embed.data.pieces import MAX_CHARACTERS, MAX_TOKENS, LimitError
from embed.data.preprocess import Preprocessor
from embed.data.records import RecordError
from embed.distributed import storage
from embed.distributed.mesh import make_mesh
from embed.embedder import Embedder
from embed.eval import report_benchmarks, suite
from embed.eval.evaluate import evaluate_checkpoints
from embed.model.build import build
from embed.model.encoder import init_params
from embed.training.metadata import metadata_for
from embed.training.weights import save_params
from experiments import recipe
from experiments.studies import findings, negatives


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    described = metadata_for(ARCH, Preprocessor(tokenizer, ARCH.media))
    with jax.set_mesh(make_mesh((1, 1, 1))):
        save_params(folder, init_params(build(ARCH), jax.random.key(0)), described, tokenizer)
    return folder


def write(path: pathlib.Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pair(number: int, query: str = "find", positive: str = "about") -> dict:
    return {
        "id": f"x{number}",
        "query": [{"text": f"{query} {number}"}],
        "positive": [{"text": f"{positive} {number}"}],
    }


def write_benchmark(folder: pathlib.Path, corpus: list[str], queries: list[str]) -> None:
    """Query i is answered by candidate i."""
    for name, texts in (("corpus", corpus), ("queries", queries)):
        write(folder / f"{name}.jsonl", [{"id": i, "content": [{"text": text}]} for i, text in enumerate(texts)])
    (folder / "qrels.tsv").write_text("".join(f"{i}\t{i}\t1\n" for i in range(len(queries))))


@pytest.fixture
def config(tmp_path, run, monkeypatch):
    """Without built-in datasets, whose corpora take long to build."""
    monkeypatch.setattr(suite, "SUITE", {})
    config = cpu.get_config()
    config.update({"pairs": str(tmp_path / "pairs"), "workdir": str(tmp_path / "runs")})
    config.data = str(tmp_path / "data")
    with config.unlocked():
        config.checkpoint = str(run)
    return config


def results(run: pathlib.Path) -> dict:
    return json.loads((run / "results.json").read_text())


def test_a_benchmark_is_a_test_without_pairs(config, tmp_path, run, capsys):
    write_benchmark(tmp_path / "pairs" / "b", [f"about {i}" for i in range(4)], [f"find {i}" for i in range(3)])
    write(tmp_path / "pairs" / "b" / "train.jsonl", [pair(i) for i in range(4)])
    evaluate(config)
    assert list(results(run)) == ["b"] and results(run)["b"]["32"]["candidates"] == 4
    assert "| b | 4 | 25.0 / 100.0 | " in capsys.readouterr().out


def test_pairs_and_benchmarks_are_both_scored_and_a_corpus_to_mine_is_neither(config, tmp_path, run):
    write(tmp_path / "pairs" / "a" / "test.jsonl", [pair(i) for i in range(4)])
    write_benchmark(tmp_path / "pairs" / "a", ["one", "two"], ["1"])
    write(tmp_path / "pairs" / "c" / "test.jsonl", [pair(i) for i in range(2)])
    write(tmp_path / "pairs" / "c" / "corpus.jsonl", [{"id": "m", "content": [{"text": "mined"}]}])
    write(tmp_path / "pairs" / "d" / "train.jsonl", [pair(i) for i in range(2)])
    evaluate(config)
    ways = ("query→target", "target→query")
    assert list(results(run)) == [*(f"a: {way}" for way in ways), "a", *(f"c: {way}" for way in ways)]


def negatives_study(config) -> None:
    negatives.main(config, config.checkpoint)


def evaluate(config) -> None:
    test_sets = suite.read_test_sets(storage.path(config.data), config.pairs)
    print(suite.format_table(evaluate_checkpoints([config.checkpoint], test_sets)))


NOTHING = (
    r"nothing to evaluate in .*pairs: none of its datasets \(d\) has test\.jsonl, or corpus\.jsonl, queries\.jsonl"
)


@pytest.mark.parametrize("program", [evaluate, recipe.main, findings.main, negatives_study])
def test_nothing_to_test_is_said_before_anything_is_trained(config, tmp_path, program):
    write(tmp_path / "pairs" / "d" / "train.jsonl", [pair(i) for i in range(4)])
    with pytest.raises(DatasetError, match=NOTHING):
        program(config)
    write(tmp_path / "pairs" / "d" / "queries.jsonl", [{"id": "q", "content": [{"text": "x"}]}])
    with pytest.raises(DatasetError, match=r"d: a benchmark is .*there is no qrels\.tsv, corpus\.jsonl"):
        program(config)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "data").exists()


def test_nothing_to_train_on_is_said_before_anything_is_trained(config, tmp_path):
    write(tmp_path / "pairs" / "d" / "test.jsonl", [pair(i) for i in range(4)])
    with pytest.raises(FileNotFoundError, match=r"no dataset in .*pairs: expected NAME/train\.jsonl"):
        recipe.main(config)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "data").exists()


@pytest.mark.parametrize("program", [evaluate, recipe.main])
@pytest.mark.parametrize("form", ["pairs", "benchmark"])
def test_the_name_of_a_builtin_dataset_is_refused(config, tmp_path, monkeypatch, program, form):
    monkeypatch.setattr(suite, "SUITE", {"glyphs": suite.SuiteDataset(None, None, "")})
    folder = tmp_path / "pairs" / "glyphs"
    if form == "pairs":
        write(folder / "test.jsonl", [pair(0)])
    else:
        write_benchmark(folder, ["a"], ["b"])
    write(folder / "train.jsonl", [pair(0)])
    with pytest.raises(DatasetError, match=r"glyphs has the name of a built-in dataset.*rename the folder"):
        program(config)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("side", ["query", "positive", "corpus", "queries"])
@pytest.mark.parametrize("words", [12_003, MAX_CHARACTERS // 3])
def test_a_text_over_the_limit_is_cut_where_every_long_one_is(config, tmp_path, run, side, words):
    text = "red " * words
    scores = []
    for kept in (text, text[:4000]):  # both are longer than what is read
        rows = [pair(i) for i in range(3)]
        texts = [f"about {i}" for i in range(3)]
        if side in ("query", "positive"):
            rows[1][side] = [{"text": kept}]
            write(tmp_path / "pairs" / "d" / "test.jsonl", rows)
        else:
            long = [*texts[:2], kept]
            corpus, queries = (long, texts) if side == "corpus" else (texts, long)
            write_benchmark(tmp_path / "pairs" / "d", corpus, queries)
        evaluate(config)
        scores.append(results(run))
    assert scores[0] == scores[1] and scores[0]


def test_what_cannot_be_read_is_named_by_dataset_and_id(config, tmp_path):
    folder = tmp_path / "pairs" / "d"
    rows = [pair(i) for i in range(3)]
    rows[2]["positive"] = [{"image": "broken.png"}]
    write(folder / "test.jsonl", rows)
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"^dataset d, positive of record 3, id x2: "):
        evaluate(config)
    rows[2] = pair(2) | {"negatives": [[{"image": "broken.png"}] * 7]}
    write(folder / "test.jsonl", rows)
    with pytest.raises(LimitError, match=r"^dataset d, negative of record 3, id x2: 7 images"):
        evaluate(config)
    (folder / "test.jsonl").unlink()
    write_benchmark(folder, ["a", "b"], ["a", "b"])
    for name, kind in (("queries", "query"), ("corpus", "candidate")):
        write(folder / f"{name}.jsonl", [{"id": i, "content": [{"image": "broken.png"}]} for i in range(2)])
        with pytest.raises(MediaError, match=rf"^dataset d, {kind} 0: "):
            evaluate(config)
        write(folder / f"{name}.jsonl", [{"id": i, "content": [{"text": "a"}]} for i in range(2)])


def test_an_unreadable_test_record_refuses_by_file_and_line(config, tmp_path):
    for split, line in (("test.jsonl", {"id": "x3", "query": "no list"}), ("corpus.jsonl", {"content": []})):
        folder = tmp_path / split / "d"
        write_benchmark(folder, ["a"], ["b"])
        write(folder / split, [pair(0) | {"content": [{"text": "a"}]}, line])
        config.pairs = str(folder.parent)
        with pytest.raises(RecordError, match=rf"d/{split}:2: "):
            evaluate(config)


def test_the_reports_benchmarks_say_what_is_missing_of_a_folder(config, tmp_path):
    write(tmp_path / "pairs" / "mscoco" / "corpus.jsonl", [{"id": "a", "content": [{"text": "a"}]}])
    write(tmp_path / "pairs" / "mscoco" / "test.jsonl", [pair(i) for i in range(2)])
    assert [len(report_benchmarks.load(one, tmp_path / "pairs")) for one in report_benchmarks.TABLES[:2]] == [2, 0]
    write(tmp_path / "pairs" / "docci" / "queries.jsonl", [{"id": "a", "content": [{"text": "a"}]}])
    with pytest.raises(DatasetError, match=r"docci: a benchmark is .* there is no qrels\.tsv, corpus\.jsonl"):
        report_benchmarks.load(report_benchmarks.under_protocol("DOCCI", "docci"), tmp_path / "pairs")


def test_vectors_of_a_long_text_are_those_of_its_beginning(run):
    embedder, text = Embedder.load(run), "red " * (MAX_TOKENS + 1)
    with pytest.raises(LimitError, match="at most 8,192"):
        embedder.pieces(text)
    whole, begin = (embedder.pieces(one, "search result", tokens=100) for one in (text, text[:2000]))
    assert whole == begin and sum(len(piece.ids) for piece in whole) == 100
    assert np.array_equal(*(embedder.encode(embedder.prepare([pieces].__getitem__, 1)) for pieces in (whole, begin)))


def test_dev_scores_are_those_of_the_dev_split_and_open_nothing_before_they_are_asked_for(tmp_path, run, monkeypatch):
    names = ("scenes_image", "stdlib_text")
    monkeypatch.setattr(suite, "SUITE", {name: suite.SUITE[name] for name in names})
    monkeypatch.setattr(toy_corpora, "CORPORA", {name: toy_corpora.CORPORA[name] for name in names})
    embedder = Embedder.load(run)
    (dev,) = suite.dev_evals(embedder.encoder, storage.path(tmp_path), 7)
    assert (dev.name, dev.every) == ("dev", 7)
    toy_corpora.build(tmp_path, max_records=12)
    values = dev.score(embedder.params, embedder.preprocessor)
    assert list(values) == ["mean ndcg@10", "scenes_image ndcg@10", "stdlib_text ndcg@10"]
    prepared = suite.load_suite(embedder, storage.path(tmp_path), "dev")
    vectors = suite.encode_suite(embedder, embedder.params, prepared)
    results = suite.evaluate(prepared, vectors, embedder.encoder.arch.matryoshka_dims)
    assert values["mean ndcg@10"] == pytest.approx(suite.mean_ndcg(results), abs=1e-6)
    assert values["mean ndcg@10"] == pytest.approx(np.mean(list(values.values())[1:]))
    assert len(suite.load_suite(embedder, storage.path(tmp_path), "dev", 5)[0][0].queries) == 5
