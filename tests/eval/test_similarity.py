"""Graded similarity: Spearman's correlation by its definition, per language, in results, tables and the page."""

import argparse
import itertools
import json

import jax
import numpy as np
import pytest
from conftest import ARCH

from embed import commands
from embed.data.discover import DatasetError
from embed.data.jsonl import parse_graded
from embed.data.modalities import Text
from embed.data.preprocess import Preprocessor
from embed.data.records import Record, RecordError, to_bytes
from embed.data.sources import open_split, read_records
from embed.data.writing import write_shards
from embed.distributed import storage
from embed.distributed.mesh import make_mesh
from embed.embedder import Embedder
from embed.eval import compare, precision, similarity, suite
from embed.eval.benchmarks import from_pairs, score
from embed.eval.evaluate import evaluate_checkpoints
from embed.eval.similarity import SimilarityBenchmark, pair_cosines, score_pairs, spearman
from embed.model.build import build
from embed.model.encoder import init_params
from embed.model.matryoshka import truncate_dim
from embed.report import page, table
from embed.report.workdir import write_page
from embed.retrieval import quantize
from embed.training.metadata import metadata_for
from embed.training.weights import save_params

WORDS = ["red", "green", "blue", "small", "large", "star", "circle", "left", "right", "above"]


def graded(number: int, lang: str = "en", **fields) -> dict:
    rng = np.random.default_rng(number)
    first, second = (" ".join(rng.choice(WORDS, 4)) for _ in range(2))
    pair = {"id": f"x{number}", "a": [{"text": first}], "b": [{"text": second}], "score": float(rng.integers(0, 6))}
    return pair | {"lang": lang} | fields


def write(path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("similarity") / "run"
    described = metadata_for(ARCH, Preprocessor(tokenizer, ARCH.media))
    with jax.set_mesh(make_mesh((1, 1, 1))):
        save_params(folder, init_params(build(ARCH), jax.random.key(0)), described, tokenizer)
    return folder


@pytest.fixture
def evaluate(tmp_path, run, monkeypatch):
    """Score the run on the datasets under `pairs`, without the built-in ones."""
    monkeypatch.setattr(suite, "SUITE", {})
    return lambda: evaluate_checkpoints([str(run)], suite.read_test_sets(None, str(tmp_path / "pairs")))["run"]


def benchmark_of(scores, languages=None) -> SimilarityBenchmark:
    n = len(scores)
    texts = tuple((Text(str(i)),) for i in range(n))
    ids = tuple(map(str, range(n)))
    return SimilarityBenchmark("d: similarity", texts, texts, np.array(scores), tuple(languages or [""] * n), ids)


def average_ranks(values) -> list[float]:
    """The rank of each value: the mean of the positions that its equals take in sorted order."""
    order = sorted(values)
    return [np.mean([i for i, other in enumerate(order) if other == value]) for value in values]


@pytest.mark.parametrize("seed", range(20))
def test_spearman_is_the_correlation_of_average_ranks(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 8, 30).astype(float)  # many ties
    y = x + rng.integers(-3, 4, 30)
    expected = np.corrcoef(average_ranks(x), average_ranks(y))[0, 1]
    assert spearman(x, y) == pytest.approx(expected, abs=1e-12)
    assert spearman(np.exp(x / 3), 5 - y) == pytest.approx(-expected, abs=1e-12)  # order is all that counts


def test_equal_cosines_correlate_with_nothing():
    assert spearman(np.ones(4), np.arange(4.0)) == 0.0


def test_pairs_of_equal_vectors_tie():
    vectors = np.random.default_rng(0).normal(size=(200, 48)).astype(np.float32)
    scaled = vectors * np.linspace(0.1, 9, 200, dtype=np.float32)[:, None]
    units = truncate_dim(vectors, 48)
    assert set(pair_cosines(units, units)) == {1.0}
    assert np.ptp(pair_cosines(vectors, scaled)) < 1e-6
    zero = np.zeros((2, 4), np.float32)
    assert pair_cosines(zero, zero).tolist() == [0, 0]


@pytest.mark.parametrize("width", [4, 16])
def test_the_score_is_the_mean_over_languages_at_every_width(width):
    rng = np.random.default_rng(1)
    languages = ["de", "en", "de", "en", "en"] * 8
    first, second = (rng.normal(size=(40, 16)).astype(np.float32) for _ in range(2))
    benchmark = benchmark_of(rng.integers(0, 6, 40).astype(float), languages)
    row = score_pairs(benchmark, first, second, (4, 16))[width]
    cosines = [
        a[:width] @ b[:width] / np.linalg.norm(a[:width]) / np.linalg.norm(b[:width])
        for a, b in zip(first.astype(float), second.astype(float), strict=True)
    ]
    for language, count in (("de", 16), ("en", 24)):
        of = [i for i, name in enumerate(languages) if name == language]
        expected = np.corrcoef(average_ranks([cosines[i] for i in of]), average_ranks(benchmark.scores[of]))[0, 1]
        assert row[f"spearman/{language}"] == pytest.approx(expected, abs=1e-9) and row[f"pairs/{language}"] == count
    assert row["spearman"] == pytest.approx((row["spearman/de"] + row["spearman/en"]) / 2) and row["pairs"] == 40
    # The sides may change places, and the pairs their order.
    order = rng.permutation(40)
    shuffled = benchmark_of(benchmark.scores[order], [languages[i] for i in order])
    assert score_pairs(shuffled, second[order], first[order], (width,))[width] == pytest.approx(row)
    with pytest.raises(ValueError, match="d: similarity: 3 and 40 vectors for 40 pairs"):
        score_pairs(benchmark, first[:3], second, (width,))


def test_one_language_or_none_is_one_score():
    vectors = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    for languages in (["en"] * 6, None):
        (row,) = score_pairs(benchmark_of(range(6), languages), *vectors, (8,)).values()
        assert set(row) == {"spearman", "pairs"}
    (row,) = score_pairs(benchmark_of([0, 1, 2] * 2, ["en"] * 3 + [""] * 3), *vectors, (8,)).values()
    assert {"spearman/en", "spearman/none"} < set(row)


def test_graded_pairs_are_a_row_of_their_own(evaluate, tmp_path, run):
    write(tmp_path / "pairs" / "s" / "sts.jsonl", [graded(i, ("de", "en")[i % 2]) for i in range(24)])
    pairs = [
        {"id": str(i), "query": [{"text": f"find {word}"}], "positive": [{"text": word}]}
        for i, word in enumerate(WORDS)
    ]
    write(tmp_path / "pairs" / "r" / "test.jsonl", pairs)
    results = evaluate()
    assert list(results) == ["r: query→target", "r: target→query", "s: similarity"]
    saved = compare.load_results(run / "results.json")
    assert saved == results and set(saved["s: similarity"]) == set(ARCH.matryoshka_dims)

    # The vectors are those of the task string "sentence similarity", on both sides.
    embedder = Embedder.load(run)
    records = list(read_records(open_split(tmp_path / "pairs" / "s", "sts")))
    sides = [[record.query[0].text for record in records], [record.positive[0].text for record in records]]
    first, second = (embedder.embed(side, task="sentence similarity") for side in sides)
    scores = np.array([float(record.label) for record in records])
    row = results["s: similarity"][ARCH.matryoshka_dims[-1]]
    cosines = np.sum(first.astype(float) * second, axis=1)
    expected = [spearman(cosines[half::2], scores[half::2]) for half in (0, 1)]
    assert row["spearman"] == pytest.approx(np.mean(expected), abs=0.02) and row["pairs"] == 24

    # The mean of nDCG@10 is over retrieval alone; Spearman's has its own rows and table.
    retrieval = [results[name][ARCH.matryoshka_dims[-1]]["ndcg@10"] for name in list(results)[:2]]
    assert suite.mean_ndcg(results) == pytest.approx(np.mean(retrieval))
    assert (
        suite.describe_means(results) == f"mean nDCG@10 {np.mean(retrieval):.3f}, mean Spearman {row['spearman']:.3f}"
    )
    rows = suite.format_table({"run": results})
    percent = f"{100 * row['spearman']:.1f}"
    assert f"| s: similarity, Spearman, mean of 2 languages | 24 | 0.0 | {percent} |" in rows
    assert f"| s: similarity, Spearman, de | 12 | 0.0 | {100 * row['spearman/de']:.1f} |" in rows
    ndcg, correlation = compare.format_comparison({"run": results, "same": results}).split("\n\n")
    assert f"| mean | {100 * np.mean(retrieval):.1f} |" in ndcg and "similarity" not in ndcg
    assert correlation.splitlines()[0] == "| Spearman | run | same | same − run |"
    assert correlation.splitlines()[2:] == [
        f"| {name} | {percent} | {percent} | +0.0 |" for name in ("s: similarity", "mean")
    ]


def test_graded_pairs_are_on_the_page(evaluate, tmp_path, run):
    write(tmp_path / "pairs" / "s" / "sts.jsonl", [graded(i, ("de", "<b>")[i % 2]) for i in range(24)])
    results = evaluate()
    embedder = Embedder.load(run)
    prepared = suite.load_datasets(embedder, str(tmp_path / "pairs"), "test")
    vectors = suite.encode_suite(embedder, embedder.params, prepared)
    benchmarks = [benchmark for benchmark, *_ in prepared]
    write_page(tmp_path / "report.html", run.parent, {"run": results}, benchmarks, vectors, "run", {})
    text = (tmp_path / "report.html").read_text()
    row = results["s: similarity"][ARCH.matryoshka_dims[-1]]
    assert 'id="similarity"' in text and f">{100 * row['spearman']:.1f}</td>" in text and "Spearman, &lt;b&gt;" in text
    assert "<b>" not in text
    assert '<td class="score">–</td>' in table.similarity_table({"run": results, "old": {"s: similarity": {}}})
    page.write(tmp_path / "without.html", page.Report({"run": {}}, []))
    assert 'id="similarity"' not in (tmp_path / "without.html").read_text()


def test_the_command_prints_spearman_and_every_precision(evaluate, tmp_path, run, capsys, monkeypatch):
    write(tmp_path / "pairs" / "s" / "sts.jsonl", [graded(i) for i in range(24)])
    monkeypatch.setattr(commands, "all_devices", lambda workdir: jax.set_mesh(make_mesh((1, 1, 1))))
    arguments = {"checkpoints": [str(run)], "workdir": str(tmp_path), "mteb": "", "data": str(tmp_path / "data")}
    commands.run_evaluate(argparse.Namespace(**arguments, pairs=str(tmp_path / "pairs"), baselines=[], trust=[]))
    printed = capsys.readouterr().out
    assert "| s: similarity, Spearman | 24 | 0.0 | " in printed
    assert "| checkpoint | dimensions | Spearman, float32 | Spearman, int8 | Spearman, binary |" in printed
    assert [line.split(" | ")[1] for line in printed.splitlines() if line.startswith("| run | ")] == [
        str(width) for width in sorted(ARCH.matryoshka_dims, reverse=True)
    ]


def test_splits_are_read_by_name_and_from_array_records(tmp_path):
    rows = [graded(i) for i in range(9)]
    lines = [json.dumps(row).encode() for row in rows]
    for name, part in (("sts", rows), ("sts_dev", rows[:5]), ("sts_train", rows[5:])):
        write(tmp_path / "s" / f"{name}.jsonl", part)
    folder = storage.path(tmp_path / "s")
    sizes = {split: len(similarity.from_folder(folder, split).ids) for split in ("test", "dev", "train")}
    assert sizes == {"test": 9, "dev": 5, "train": 4}
    records = [parse_graded(line, folder, "here") for line in lines]
    write_shards(storage.path(tmp_path / "a"), "sts", map(to_bytes, records))
    first, second = (similarity.from_folder(storage.path(tmp_path / name), "test") for name in ("s", "a"))
    assert first.first == second.first and first.scores.tolist() == second.scores.tolist()
    write_shards(storage.path(tmp_path / "b"), "sts", [to_bytes(Record("x", (Text("a"),), (Text("b"),), label="high"))])
    with pytest.raises(RecordError, match=r"b/sts, record 1: label: expected the score of a graded pair, got 'high'"):
        similarity.from_folder(storage.path(tmp_path / "b"), "test")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([graded(0), graded(1, score=None)], r"s/sts\.jsonl:2: score: expected a finite number, got None"),
        ([graded(0), graded(1, score=float("nan"))], r"s/sts\.jsonl:2: score: expected a finite number"),
        ([graded(0), graded(1, b=[])], r"s/sts\.jsonl:2: b: expected a list of at least one part"),
        ([graded(0, score=1), graded(1, score=1)], r"s: similarity: 2 pairs of language 'en' with equal scores"),
        ([graded(0, score=1, lang=""), graded(1, score=1, lang="")], r"s: similarity: 2 pairs with equal scores"),
        ([graded(0, "a|b"), graded(1)], r"s/sts, record 1: lang 'a\|b' must not contain"),
    ],
)
def test_bad_records_are_named(evaluate, tmp_path, rows, message):
    write(tmp_path / "pairs" / "s" / "sts.jsonl", rows)
    with pytest.raises(RecordError, match=message):
        evaluate()


def test_an_empty_split_and_nothing_to_evaluate_are_errors(evaluate, tmp_path):
    write(tmp_path / "pairs" / "s" / "sts.jsonl", [])
    with pytest.raises(DatasetError, match=r"s: the split sts is empty: there is nothing to evaluate"):
        evaluate()
    (tmp_path / "pairs" / "s" / "sts.jsonl").rename(tmp_path / "pairs" / "s" / "sts_train.jsonl")
    with pytest.raises(DatasetError, match=r"\(s\) has test\.jsonl, or .* or sts\.jsonl"):
        evaluate()


def test_every_width_is_scored_at_every_precision(run):
    pairs = itertools.product(WORDS[:6], WORDS[:5])
    records = [Record(a + b, (Text(f"find {a}"),), (Text(f"{a} {b}"),)) for a, b in pairs]
    embedder = Embedder.load(run)
    forward, _ = from_pairs("r", records)
    graded_pairs = benchmark_of(np.arange(30.0))
    prepared = [*suite.prepare_benchmark(embedder, forward), suite.prepare_similarity(embedder, graded_pairs)]
    vectors = suite.encode_suite(embedder, embedder.params, prepared)
    widths = ARCH.matryoshka_dims
    results = precision.evaluate_precisions(prepared, vectors, widths)
    plain = suite.evaluate(prepared, vectors, widths)
    for width in widths:
        for name, metric in ((forward.name, "ndcg@10"), (graded_pairs.name, "spearman")):
            assert plain[name][width].items() <= results[name][width].items()
            assert set(results[name][width]) - set(plain[name][width]) == {f"{metric}, int8", f"{metric}, binary"}
        signs = [np.sign(side[:, :width]).astype(np.float32) for side in vectors[0]]
        assert results[forward.name][width]["ndcg@10, binary"] == score(forward, *signs, (width,))[width]["ndcg@10"]
        bytes_ = [quantize.to_int8(side[:, :width]).astype(np.float32) for side in vectors[0]]
        expected = score(forward, *bytes_, (width,))[width]["ndcg@10"]
        assert results[forward.name][width]["ndcg@10, int8"] == pytest.approx(expected, abs=0.02)
    lines = precision.format_precisions({"run": results, "other": results}).splitlines()
    row = results[forward.name][widths[-1]]
    cells = [f"{100 * row[metric]:.1f}" for metric in ("ndcg@10", "ndcg@10, int8", "ndcg@10, binary")]
    assert lines[2].startswith(f"| run | {widths[-1]} | {' | '.join(cells)} | ") and len(lines) == 2 + 2 * len(widths)
