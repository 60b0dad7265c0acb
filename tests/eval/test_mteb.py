"""mteb's own check of a model, and its scores beside ours on tasks of every modality; nothing is downloaded."""

import io

import jax
import numpy as np
import pytest

pytest.importorskip("mteb", reason="these tests need the extra [eval]")
import av
import datasets
import mteb
import soundfile
from conftest import ARCH
from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.mocks.mock_run import mock_run
from PIL import Image as Pillow

from embed.data.modalities import Audio, Image, Text, Video
from embed.data.records import Record
from embed.embedder import Embedder
from embed.eval.benchmarks import from_pairs, score
from embed.eval.mteb import BENCHMARKS, MtebModel, find_tasks
from embed.eval.mteb_tasks import as_task
from embed.eval.similarity import SimilarityBenchmark, score_pairs
from embed.eval.suite import prepare_similarity
from embed.model.build import build
from embed.model.encoder import init_params

try:  # mteb decodes with it in places, so its audio and video tasks need it; it is found only beside ffmpeg's libraries
    import torchcodec  # noqa: F401

    TORCHCODEC = True
except (ImportError, OSError, RuntimeError):
    TORCHCODEC = False
RNG = np.random.default_rng(0)
WORDS = ["red", "green", "blue", "small", "large", "star", "circle", "left", "right", "above"]
GERMAN = ["rot", "grün", "blau", "klein", "groß", "Stern", "Kreis", "links", "rechts", "über"]


@pytest.fixture
def embedder(preprocessor):
    encoder = build(ARCH, remat=False)
    return Embedder(encoder, init_params(encoder, jax.random.key(0)), preprocessor)


def text(words=WORDS):
    return Text(" ".join(RNG.choice(words, 6)))


def image():
    out = io.BytesIO()
    Pillow.fromarray(RNG.integers(0, 256, (*RNG.integers(8, 40, 2), 3), np.uint8)).save(out, "PNG")
    return Image(out.getvalue())


def sound():
    out = io.BytesIO()
    soundfile.write(out, RNG.normal(0, 0.1, (int(RNG.integers(2000, 9000)), 2)), 22_050, format="FLAC")
    return Audio(out.getvalue())


def video():
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(int(RNG.integers(4, 18))):
            frame = av.VideoFrame.from_ndarray(RNG.integers(0, 256, (32, 48, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Video(out.getvalue())


SIDES = {
    "text": (lambda: (text(),), lambda: (text(),)),
    "multilingual": (lambda: (text(GERMAN),), lambda: (text(),)),
    "image": (lambda: (text(),), lambda: (image(),)),
    "audio": (lambda: (sound(),), lambda: (text(),)),
    "video": (lambda: (text(),), lambda: (video(),)),
    "mixed": (lambda: (text(), image()), lambda: (text(), image())),
}


def test_mtebs_check_of_a_model_passes_in_every_modality(embedder):
    found = mock_run(MtebModel(embedder, "tiny"))
    assert found.all_passed, found.to_markdown()
    passed = {modality for status, modality, _ in found.modality_summary() if status.startswith("✓")}
    assert passed >= ({"text", "image", "audio", "video"} if TORCHCODEC else {"text", "image"}), found.to_markdown()


@pytest.mark.parametrize(("kind", "dim"), [*((kind, None) for kind in SIDES), ("text", 8), ("image", 8)])
def test_its_scores_are_ours(embedder, kind, dim, tmp_path):
    query, target = SIDES[kind]
    records = [Record(str(i), query(), target(), (target(),)) for i in range(24)]
    records += [Record(f"again{i}", records[i].query, target()) for i in range(8)]  # several right answers
    plain = kind in ("text", "multilingual")
    for benchmark in from_pairs(kind, records, sides=("there", "back")):
        asked, given = ("search result", "document") if plain else (None, None)
        vectors = [
            embedder.embed([list(content) for content in side], task=task)
            for side, task in ((benchmark.queries, asked), (benchmark.corpus, given))
        ]
        ours = score(benchmark, *vectors, [dim or 32])[dim or 32]
        cache = mteb.ResultCache(tmp_path)
        model = MtebModel(embedder, "tiny", dim)
        (result,) = mteb.evaluate(model, [as_task(benchmark)], cache=cache, show_progress_bar=False).task_results
        (rounded,) = result.scores["test"]
        for name in ("ndcg", "recall", "mrr"):
            for k in (1, 10):
                assert rounded[f"{name}_at_{k}"] == pytest.approx(ours[f"{name}@{k}"], abs=5.1e-6), (name, k)
        data = as_task(benchmark)
        data.load_data()
        own, about = data.dataset["default"]["test"], {"task_metadata": data.metadata, "encode_kwargs": {}}
        model.index(own["corpus"], **about)
        ranking = model.search(own["queries"], top_k=10, **about)
        every = calculate_retrieval_scores(ranking, own["relevant_docs"], [1, 10]).all_scores.values()
        for name, theirs in (("ndcg", "ndcg_cut"), ("recall", "recall")):
            for k in (1, 10):
                found = np.mean([one[f"{theirs}_{k}"] for one in every])
                assert found == pytest.approx(ours[f"{name}@{k}"], abs=1e-6), (name, k)
        kept = list(tmp_path.rglob(f"{result.task_name}.json"))
        assert len(kept) == 1 and model.mteb_model_meta.revision in str(kept[0])


def test_order_is_what_mteb_cannot_say():
    there, _ = from_pairs("order", [Record("1", (image(), text()), (text(),))])
    with pytest.raises(ValueError, match="cannot express image, text"):
        as_task(there)
    there, _ = from_pairs("kinds", [Record("1", (image(), sound()), (text(),))])
    with pytest.raises(ValueError, match="no category ia2t"):
        as_task(there)


def test_what_is_too_long_is_cut(embedder):
    """A text over 8,192 tokens, a sound over 180 s: embedded as their beginnings are."""
    out = io.BytesIO()
    soundfile.write(out, np.sin(np.arange(8000 * 200) / 9), 8000, format="FLAC")
    start = io.BytesIO()
    soundfile.write(start, np.sin(np.arange(8000 * 180) / 9), 8000, format="FLAC")
    model = MtebModel(embedder, "tiny")
    long, cut = (model._pieces([Audio(sound.getvalue())]) for sound in (out, start))
    assert len(long) == len(cut) and sum(piece.num_tokens for piece in long) == 180 * 25
    for one, other in zip(long, cut, strict=True):
        np.testing.assert_allclose(one.frames, other.frames, atol=1e-3)  # the resampler sees the end in one of them
    assert len(model._pieces([Text("a red square " * 50_000)])[0].ids) == 8192 - 2


def test_the_names_of_the_reports_tables_are_known():
    assert all(find_tasks(name) for name in BENCHMARKS)
    assert [task.metadata.name for task in find_tasks("Banking77Classification,STS12")] == [
        "Banking77Classification",
        "STS12",
    ]
    with pytest.raises(KeyError):
        find_tasks("NoSuchTask")


@pytest.mark.parametrize("dim", [None, 8])
def test_graded_pairs_score_as_in_mteb(embedder, dim, tmp_path):
    languages = ["en", "de"] * 20
    first, second = ([(text(WORDS if name == "en" else GERMAN),) for name in languages] for _ in range(2))
    scores = RNG.integers(0, 11, 40) / 2
    benchmark = SimilarityBenchmark("s", tuple(first), tuple(second), scores, tuple(languages), tuple(map(str, scores)))
    _, *sides = prepare_similarity(embedder, benchmark)
    ours = score_pairs(benchmark, *(embedder.encode(side) for side in sides), [dim or 32])[dim or 32]

    class Similarity(AbsTaskSTS):
        metadata = TaskMetadata(
            name="graded",
            description="graded pairs",
            reference=None,
            dataset={"path": "none", "revision": "1"},
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs={"en": ["eng-Latn"], "de": ["deu-Latn"]},
            main_score="cosine_spearman",
        )

        def load_data(self, **about):
            rows = {name: [i for i in range(40) if languages[i] == name] for name in ("en", "de")}
            self.dataset = {
                name: {
                    "test": datasets.Dataset.from_dict(
                        {
                            "sentence1": [first[i][0].text for i in of],
                            "sentence2": [second[i][0].text for i in of],
                            "score": scores[of].tolist(),
                        }
                    )
                }
                for name, of in rows.items()
            }
            self.data_loaded = True

    model = MtebModel(embedder, "tiny", dim)
    cache = mteb.ResultCache(tmp_path)
    (result,) = mteb.evaluate(model, [Similarity()], cache=cache, show_progress_bar=False).task_results
    for scored in result.scores["test"]:
        # mteb's cosines are float32: two that are within its rounding may change places
        assert scored["cosine_spearman"] == pytest.approx(ours[f"spearman/{scored['hf_subset']}"], abs=2e-3)
    assert result.get_score() == pytest.approx(ours["spearman"], abs=2e-3)
