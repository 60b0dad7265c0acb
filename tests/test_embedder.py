"""Everything that can be embedded, and the errors for everything that cannot."""

import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image as Pillow
from samples import BAD, FILES, FRAMES, PHOTO, RNG, SOUND, mp4, pdf, png, save, wav

import embed
from embed.data.batching import MAX_SEGMENTS
from embed.data.jsonl import parse_parts
from embed.data.modalities import Audio, Image, Pdf, Text, Video
from embed.data.prompts import QUERY_TASKS
from embed.data.records import RecordError
from embed.embedder import Embedder
from embed.eval import suite
from embed.training import checkpoint, progress


@pytest.fixture(scope="module", autouse=True)
def few_quick_compilations():
    """Most of the time here is compilation, so XLA does not optimize."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory) -> pathlib.Path:
    """A run's folder with one checkpoint, of a fresh encoder."""
    folder = tmp_path_factory.mktemp("run")
    save(folder, tokenizer, seed=0)
    return folder


@pytest.fixture(scope="module")
def embedder(run) -> Embedder:
    return Embedder.load(run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("files")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def items(folder) -> list[Any]:
    """One item of every modality."""
    files = [folder / name for name in FILES]
    parts = [Text("größer als"), Image(png(PHOTO)), Audio(wav(SOUND)), Video(mp4(FRAMES)), Pdf(pdf())]
    stereo = np.stack([SOUND, np.cos(np.arange(3200) / 3)], axis=1)
    mixed = ["left of", folder / "photo.png", "is heard", folder / "tone.wav"]
    rest = ["a red square", Pillow.fromarray(PHOTO), (SOUND, 16_000), (stereo, np.int64(16_000)), FRAMES, mixed]
    return [*files, *parts, *rest]


@pytest.fixture(scope="module")
def vectors(embedder, items) -> np.ndarray:
    return embedder.embed(items)


def test_every_kind_has_a_unit_vector(vectors, items):
    assert vectors.shape == (len(items), 32) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_equal_content_has_equal_vectors(vectors):
    """A file, its bytes as a part and what it decodes to are one input; other content is another."""
    for same in ([0, 7, 12], [1, 8], [2, 9], [3, 10]):
        np.testing.assert_allclose(vectors[same], vectors[same[:1]].repeat(len(same), 0), atol=1e-5)
    distinct = vectors[[0, 1, 2, 4, 5, 6, 11, 14, 15, 16]]
    assert (distinct @ distinct.T - np.eye(len(distinct))).max() < 1 - 1e-4


@pytest.mark.parametrize("dim", [1, 8, 20, 32])
def test_dim_is_a_prefix_at_unit_norm(embedder, vectors, items, dim):
    prefix = vectors[4:7, :dim]
    wanted = prefix / np.linalg.norm(prefix, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.embed(items[4:7], dim=dim), wanted, atol=1e-5)


def test_order_and_company_do_not_matter(embedder, vectors, items):
    order = RNG.permutation(len(items))
    np.testing.assert_allclose(embedder.embed([items[i] for i in order]), vectors[order], atol=1e-5)
    for i in range(len(items)):
        np.testing.assert_allclose(embedder.embed([items[i]]), vectors[i : i + 1], atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_texts_that_share_rows_have_the_vectors_they_have_alone(embedder, seed):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(["a", "red", "circle", "größer", "left"], n)) for n in rng.integers(1, 60, 40)]
    together = embedder.embed([*texts, "word " * 300, PHOTO[None]])
    shapes = {inputs.max_segments for _, inputs in embedder.prepare(lambda i: embedder.pieces(texts[i]), 40).batches}
    assert MAX_SEGMENTS in shapes
    alone = np.concatenate([embedder.embed(texts[i : i + 5]) for i in range(0, 40, 5)])
    np.testing.assert_allclose(together[:40], alone, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_activations_in_half_precision_give_close_vectors(run, vectors, items, dtype):
    close = Embedder.load(run, dtype=dtype).embed(items)
    assert close.dtype == np.float32 and not np.array_equal(close, vectors)
    assert (close * vectors).sum(axis=1).min() > 0.98


def test_parts_in_another_order_are_another_input(embedder, vectors, items):
    assert vectors[-1] @ embedder.embed([items[-1][::-1]])[0] < 1 - 1e-4


def test_no_items_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, 32)
    assert embedder.embed([], dim=8).shape == (0, 8)


def test_prompt_changes_text_alone(embedder, vectors, items):
    for task, prompt in (("search result", "task: search result | query: "), ("document", "title: none | text: ")):
        photo, text = embedder.embed([items[0], "a red square"], task=task)
        np.testing.assert_allclose(photo, vectors[0], atol=1e-5)
        assert text @ vectors[11] < 1 - 1e-4
        np.testing.assert_allclose(embedder.embed([prompt + "a red square"])[0], text, atol=1e-5)
        assert embedder.pieces(["a", " red"], task)[0] == embedder.pieces(prompt + "a")[0]
        beside = embedder.pieces(["a", items[0]], task)
        assert len(beside) == 2 and beside[0] == embedder.pieces("a")[0]


@pytest.mark.parametrize("item", ["text", Image(png(PHOTO))])
def test_unknown_task_lists_the_known_ones(embedder, item):
    with pytest.raises(ValueError, match=f"item 0: unknown task 'poetry'; one of: {', '.join(QUERY_TASKS)}"):
        embedder.embed([item], task="poetry")


@pytest.mark.parametrize("name, data, error, why", BAD)
def test_bad_files(embedder, tmp_path, name, data, error, why):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match="item 1: .*" + why):
        embedder.embed(["good", tmp_path / name])


@pytest.mark.parametrize(
    "item, why",
    [
        (3.5, "cannot embed float 3.5"),
        (b"bytes", "cannot embed bytes: give a string"),
        (None, "cannot embed NoneType"),
        ([], "an empty list"),
        (["text", ["nested"]], "cannot embed list"),
        ("red \ud800", "character 4 is half a surrogate pair"),
        (["red", "x\udfff"], "character 1 is half a surrogate pair"),
        (np.zeros((33, 8, 8, 3), np.uint8), r"u8\[1..32,h,w,3\]; got uint8\[33, 8, 8, 3\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), "got uint8"),
        (np.zeros((2, 0, 8, 3), np.uint8), "must be positive"),
        (np.zeros((2, 8, 8, 3), np.float32), "got float32"),
        ((np.full(800, np.nan, np.float32), 16_000), "not finite"),
        ((np.zeros(0, np.float32), 16_000), "has no samples"),
        ((np.zeros(800, np.int16), 16_000), r"f32\[n\].*got int16"),
        ((np.zeros((4, 4, 4), np.float32), 16_000), r"got float32\[4, 4, 4\]"),
        ((np.zeros(800, np.float32), 0), "0 Hz"),
        ((np.zeros(800, np.float32), -1), "Hz"),
        ((np.zeros(800, np.float32), 10), "10 Hz"),
        ((np.zeros(800, np.float32), 2**40), "Hz"),
        ([Image(png(PHOTO))] * 7, "7 images in one input"),
        ("x " * 9000, "tokens is too long: at most 8,192"),
    ],
)
def test_bad_items(embedder, item, why):
    with pytest.raises(ValueError, match="item 1: .*" + why):
        embedder.embed(["good", item])


@pytest.mark.parametrize("dim", [0, -1, 33, True, "8", 8.0, [8]])
def test_bad_dim(embedder, dim):
    with pytest.raises(ValueError, match=r"^dim .*1\.\.32.*; trained widths: 8, 16, 32"):
        embedder.embed(["good"], dim=dim)


@pytest.mark.parametrize(
    "patches, why",
    [
        (0, "patches 0 is not within 1..8192"),
        (True, "got bool"),
        (4.0, "got float 4.0"),
        ("4", "got str '4'"),
        (200, "image is 200 patches long"),
    ],
)
def test_bad_patches(embedder, patches, why):
    with pytest.raises(ValueError, match="item 0: .*" + why):
        embedder.embed([Image(png(np.zeros((1, 400, 3), np.uint8)))], patches=patches)


@pytest.mark.parametrize("task", [True, 3, b"document", ["document"], np.array(["document"])])
def test_a_task_is_a_string(embedder, task):
    with pytest.raises(ValueError, match="item 0: task is the name of a task, a string; got"):
        embedder.embed(["good"], task=task)


@pytest.mark.parametrize("items", ["text", b"bytes", pathlib.Path("a.png"), {"text"}, {"text": 1}, None, 7])
def test_one_item_is_no_list(embedder, items):
    with pytest.raises(ValueError, match="expected a list of items, got"):
        embedder.embed(items)


def test_items_in_any_order_of_reading_are_embedded_in_theirs(embedder, vectors):
    """A generator, a dict's values, and an array of strings, with a width that numpy gives."""
    words = ["a red square", "left of", "a red square"]
    wanted = embedder.embed(words, dim=8)
    np.testing.assert_allclose(wanted[0], wanted[2], atol=1e-6)
    for items in ((word for word in words), dict(enumerate(words)).values(), np.array(words)):
        np.testing.assert_allclose(embedder.embed(items, dim=np.int64(8)), wanted, atol=1e-6)
    assert embedder.embed(iter([]), dim=8).shape == (0, 8)


def test_a_container_of_sound_alone_is_heard(embedder, tmp_path):
    (tmp_path / "a.mp4").write_bytes(mp4(None))
    np.testing.assert_allclose(*embedder.embed([tmp_path / "a.mp4", Audio(mp4(None))]), atol=1e-6)


def test_a_mark_before_a_text_is_no_part_of_it(embedder, tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / encoding).write_text("a red square", encoding=encoding)
    plain, *marked = embedder.embed([tmp_path / name for name in ("utf-8", "utf-8-sig", "utf-16")])
    np.testing.assert_allclose(marked, [plain, plain], atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_an_error(embedder, value):
    """A zero vector is an error."""
    broken = jax.tree.map(lambda leaf: jax.device_put(np.full_like(leaf, value), leaf.sharding), embedder.params)
    failing = Embedder(embedder.encoder, broken, embedder.preprocessor)
    with pytest.raises(
        checkpoint.CheckpointError,
        match=r"^1 of 1 embeddings are zero or not finite, first item 0: parameter .* holds NaN",
    ):
        failing.embed(["a red square"])


@pytest.mark.parametrize("part, why", [({"text": "a\ud800"}, "character 1"), ({"image": "\udfff.png"}, "character 0")])
def test_records_refuse_half_a_surrogate_pair(tmp_path, part, why):
    with pytest.raises(RecordError, match=rf"here\[1\]: .*{why} is half a surrogate pair"):
        parse_parts([{"text": "good"}, part], tmp_path, "here")


def test_records_refuse_a_null_in_a_name(tmp_path):
    with pytest.raises(RecordError, match=r"here\[0\]: .*not the name of a file"):
        parse_parts([{"image": "a\0.png"}], tmp_path, "here")


def test_load_without_a_checkpoint(tmp_path, run):
    for path in (tmp_path, tmp_path / "absent", run / "checkpoints" / "7"):
        with pytest.raises(checkpoint.CheckpointError, match="no finished checkpoint"):
            Embedder.load(path)


def test_the_package_gives_the_embedder_and_its_version_and_imports_no_jax_by_itself(root):
    assert embed.Embedder is Embedder and re.fullmatch(r"\d+\.\d+.*|0\+unknown", embed.__version__)
    with pytest.raises(AttributeError, match="module 'embed' has no attribute 'Embeder'"):
        embed.Embeder  # noqa: B018
    program = "import sys, embed; print(sorted({'jax', 'numpy', 'flax', 'embed.embedder'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert (root / "embed" / "py.typed").exists()


@pytest.mark.parametrize("sides", [[("a", "b")], [("a", "b"), ("b", "a")], [("a", "b"), ("a", "c")]])
def test_an_evaluation_counts_every_input_once(embedder, monkeypatch, sides):
    texts = {"a": ["one"] * 70, "b": ["a longer text of some words"] * 3, "c": ["x"]}
    prepared = {name: embedder.prepare(lambda i, t=t: embedder.pieces(t[i]), len(t)) for name, t in texts.items()}
    counted = []
    monkeypatch.setattr(progress.tqdm, "update", lambda bar, n: counted.append((bar.total, n)))
    vectors = suite.encode_suite(embedder, embedder.params, [(None, prepared[q], prepared[c]) for q, c in sides])
    total = sum(len(texts[name]) for name in {name for pair in sides for name in pair})
    assert sum(n for _, n in counted) == total and all(of == total for of, _ in counted)
    for (query, corpus), (queries, candidates) in zip(vectors, sides, strict=True):
        np.testing.assert_array_equal(query, embedder.encode(prepared[queries]))
        np.testing.assert_array_equal(corpus, embedder.encode(prepared[candidates]))
