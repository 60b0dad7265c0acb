"""Everything that can be embedded, everything that cannot and what is said of it, and the commands."""

import io
import pathlib
import re
import shutil
import struct
from typing import Any

import av
import jax
import numpy as np
import pypdfium2
import pytest
import soundfile
from conftest import ARCH
from PIL import Image as Pillow

from embed import __main__ as command
from embed import api, checkpoint
from embed.api import Embedder
from embed.data.layout import TOKENS, Layout, LimitError
from embed.data.media import MediaError
from embed.data.prompts import QUERY_TASKS
from embed.data.records import Audio, Image, Pdf, RecordError, Text, Video, parse_parts
from embed.mesh import make_mesh
from embed.model.encoder import Encoder, init

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (24, 32, 3), np.uint8)
FRAMES = RNG.integers(0, 256, (2, 24, 32, 3), np.uint8)
SOUND = (0.5 * np.sin(np.arange(3200) / 7)).astype(np.float32)  # 5 soft tokens


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def pdf(pages: int = 1) -> bytes:
    file, document = io.BytesIO(), pypdfium2.PdfDocument.new()
    for _ in range(pages):
        document.new_page(200, 150)
    document.save(file)
    return file.getvalue()


def mp4(frames: np.ndarray | None) -> bytes:
    """Frames at one a second; none: a sound alone."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        if frames is None:
            sound = out.add_stream("aac", rate=48_000, layout="mono")
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            tone.sample_rate, tone.pts = 48_000, 0
            out.mux([*sound.encode(tone), *sound.encode(None)])
        else:
            stream = out.add_stream("libx264", rate=1)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            for frame in [*(av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames), None]:
                out.mux(stream.encode(frame))
    return file.getvalue()


FILES = {
    "photo.png": png(PHOTO),
    "tone.wav": wav(SOUND),
    "clip.mp4": mp4(FRAMES),
    "page.pdf": pdf(),
    "note.txt": b"a red square on the left",
    "code.py": b"def f(x): return x\n",
}

NAMES = ["clip.mp4", "note.txt", "page.pdf", "photo.png", "tone.wav", "deep/er/code.py"]  # in a tree, in its order


@pytest.fixture(scope="module", autouse=True)
def few_quick_compilations():
    """Most of the time here is XLA's: it does not optimise, and files are indexed one by one, in shapes seen before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "CHUNK", 1)
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory) -> pathlib.Path:
    """A run's folder with one checkpoint, of a fresh encoder."""
    folder = tmp_path_factory.mktemp("run")
    save(folder, tokenizer, seed=0)
    return folder


def save(folder: pathlib.Path, tokenizer, seed: int) -> None:
    """Parameters by numpy: compiling their initialisation would take most of this file's time."""
    layout = Layout(tokenizer, ARCH.media)
    rng = np.random.default_rng(seed)
    with jax.set_mesh(make_mesh((1, 1, 1))), checkpoint.checkpointer(folder, every=1, keep=1) as saver:
        shapes = jax.eval_shape(lambda: init(Encoder(ARCH), jax.random.key(0)))
        params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype), shapes)
        saver.save(1, {"params": params}, custom_metadata=checkpoint.describe(ARCH, layout), force=True)
    tokenizer.save(folder / "tokenizer.json")


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
    """One of every kind."""
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


def test_batches_shrink_as_rows_grow(embedder, monkeypatch):
    monkeypatch.setattr(api, "ATTENTION", 2 * TOKENS**2)
    prepared = embedder.prepare([embedder.pieces(text) for text in ["red"] * 3 + ["left"] * 2].__getitem__, 5)
    assert [members.tolist() for members, _ in prepared.batches] == [[0, 1], [2, 3], [4, -1]]
    assert all(inputs.tokens.shape == (2, TOKENS) for _, inputs in prepared.batches)


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


BAD = [
    ("a.png", png(PHOTO)[:200], MediaError, "cut short"),
    ("a.png", b"", ValueError, "empty file"),
    ("a.txt", b"", ValueError, "empty file"),
    ("a.txt", b"x" * 1_000_000, LimitError, " characters; at most 393,216"),
    ("a.txt", b"caf\xe9", ValueError, "neither a known media file nor text: not UTF-8 text"),
    ("a.wav", wav(SOUND)[:40] + struct.pack("<I", 2**30) + wav(SOUND)[44:], MediaError, "claims 1,073,741,824"),
    ("a.mp4", mp4(FRAMES)[:200], MediaError, "broken, cut short"),
    ("a.png", b"a red square", ValueError, "a.png holds text, .*: give it one that does not end in .png"),
    ("a.txt", png(PHOTO), ValueError, "a.txt holds a PNG image, and its name is not that"),
    ("a.pdf", b"%PDF-1.4 no", MediaError, "cannot be read"),
    ("a.png", None, ValueError, "No such file"),
    ("", None, ValueError, "not a file"),
]


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
        ((np.zeros(0, np.float32), 16_000), "without samples"),
        ((np.zeros(800, np.int16), 16_000), r"f32\[n\].*got int16"),
        ((np.zeros((4, 4, 4), np.float32), 16_000), r"got float32\[4, 4, 4\]"),
        ((np.zeros(800, np.float32), 0), "0 Hz"),
        ((np.zeros(800, np.float32), -1), "Hz"),
        ((np.zeros(800, np.float32), 10), "10 Hz"),
        ((np.zeros(800, np.float32), 2**40), "Hz"),
        ([Image(png(PHOTO))] * 7, "7 images in one input"),
        ("x " * 9000, "tokens; at most 8,192"),
    ],
)
def test_bad_items(embedder, item, why):
    with pytest.raises(ValueError, match="item 1: .*" + why):
        embedder.embed(["good", item])


@pytest.mark.parametrize("dim", [0, -1, 33])
def test_bad_dim(embedder, dim):
    with pytest.raises(ValueError, match=f"dim {dim} is not within 1..32; trained widths: 8, 16, 32"):
        embedder.embed(["good"], dim=dim)


@pytest.mark.parametrize(
    "patches, why",
    [
        (0, "patches 0 is not within 1..8192"),
        (True, "got bool"),
        (4.0, "got float 4.0"),
        ("4", "got str '4'"),
        (200, "200 patches in a row"),
    ],
)
def test_bad_patches(embedder, patches, why):
    with pytest.raises(ValueError, match="item 0: .*" + why):
        embedder.embed([Image(png(np.zeros((1, 400, 3), np.uint8)))], patches=patches)


@pytest.mark.parametrize("items", ["text", b"bytes", pathlib.Path("a.png")])
def test_one_item_is_no_list(embedder, items):
    with pytest.raises(ValueError, match="put it in a list"):
        embedder.embed(items)


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


@pytest.fixture(scope="module")
def tree(folder, tmp_path_factory) -> pathlib.Path:
    """The files, one of them deeper, and what must be passed over."""
    tree = tmp_path_factory.mktemp("outside") / "tree"
    shutil.copytree(folder, tree)
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "code.py").rename(tree / "deep" / "er" / "code.py")
    (tree / "broken.png").write_bytes(png(PHOTO)[:200])
    (tree.parent / "secret.txt").write_text("secret")
    (tree / "link.txt").symlink_to(tree.parent / "secret.txt")
    (tree / "up").symlink_to(tree.parent)
    (tree / "gone.txt").symlink_to(tree / "nowhere")
    return tree


@pytest.fixture(scope="module")
def made(run, tree, tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("index") / "index.npz"
    with jax.set_mesh(make_mesh((1, 1, 1))):
        assert command.main(["index", str(run), str(tree), "--out", str(out)]) == 0
    return out


def ranks(capsys, *argv: Any) -> list[tuple[str, str, str]]:
    assert command.main(["search", *map(str, argv)]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    return [(rank, score, name) for rank, score, name in rows]


def test_index_counts_and_names_what_it_skips(run, tree, tmp_path, capsys):
    out = tree / "own.npz"
    for _ in range(2):  # the second time, the index itself is in the folder
        assert command.main(["index", str(run), str(tree), "--out", str(out), "--dim", "8"]) == 0
        said = capsys.readouterr()
        assert "6 files embedded, 4 skipped" in said.out
        lines = dict(line.removeprefix("skipped ").split(": ", 1) for line in said.err.splitlines())
        assert lines.keys() == {"broken.png", "link.txt", "up", "gone.txt"}
        assert "cut short" in lines["broken.png"] and "No such file" in lines["gone.txt"]
        assert lines["link.txt"] == lines["up"] == "a link that leaves the folder"
    with np.load(out, allow_pickle=False) as file:
        assert file["vectors"].shape == (6, 8) and file["vectors"].dtype == np.float32
        assert file["paths"].tolist() == NAMES
    out.unlink()


def test_a_long_pdf_is_found_by_its_pages(run, tmp_path, capsys):
    (tmp_path / "long.pdf").write_bytes(pdf(14))
    (tmp_path / "short.pdf").write_bytes(pdf(6))
    assert command.main(["index", str(run), str(tmp_path), "--out", str(tmp_path / "index.npz")]) == 0
    assert "2 files embedded, 0 skipped" in capsys.readouterr().out
    names = {name for _, _, name in ranks(capsys, tmp_path / "index.npz", "anything")}
    assert names == {"long.pdf#page=1", "long.pdf#page=7", "long.pdf#page=13", "short.pdf"}


def test_index_says_of_every_bad_file_what_is_wrong(run, tmp_path, capsys):
    files = [case for case in BAD if case[1] is not None and case[2] is not LimitError]  # a long text is cut in pieces
    bad = [(f"{i}{name}", data, why) for i, (name, data, _, why) in enumerate(files)]
    for name, data, _ in bad:
        (tmp_path / name).write_bytes(data)
    (tmp_path / "good.txt").write_text("good")
    assert command.main(["index", str(run), str(tmp_path), "--out", str(tmp_path / "index.npz")]) == 0
    said = capsys.readouterr()
    assert f"1 files embedded, {len(bad)} skipped" in said.out
    lines = dict(line.removeprefix("skipped ").split(": ", 1) for line in said.err.splitlines())
    for name, _, why in bad:
        assert re.search(why, lines[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_file_finds_itself(made, tree, name, capsys):
    found = ranks(capsys, made, tree / name)
    assert [rank for rank, _, _ in found] == list("123456")
    assert found[0] == ("1", "1.0000", name) and float(found[1][1]) < 1
    scores = [float(score) for _, score, _ in found]
    assert scores == sorted(scores, reverse=True)


def test_words_and_files_are_one_input(made, tree, embedder, capsys):
    found = ranks(capsys, made, "a red", "square", tree / "photo.png", "left", "--k", "2")
    vectors, names, _ = command.read(made)
    scores = vectors @ embedder.embed([["a red square", tree / "photo.png", "left"]])[0]
    assert [name for _, _, name in found] == [names[i] for i in np.argsort(-scores)[:2]]
    found = ranks(capsys, made, "red", "--task", "clustering")
    scores = vectors @ embedder.embed(["red"], task="clustering")[0]
    np.testing.assert_allclose([float(score) for _, score, _ in found], np.sort(scores)[::-1], atol=1e-4)


def fails(capsys, *argv: Any) -> str:
    """The one line that a command ends with."""
    assert command.main([str(arg) for arg in argv]) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("skipped ")]
    assert not said.out and len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_index_errors(run, tree, tmp_path, capsys):
    empty, out = tmp_path / "empty", tmp_path / "index.npz"
    empty.mkdir()
    assert "no files in" in fails(capsys, "index", run, empty, "--out", out)
    assert "no folder at" in fails(capsys, "index", run, tmp_path / "absent", "--out", out)
    assert "no finished checkpoint at" in fails(capsys, "index", tmp_path, tree, "--out", out)
    assert "dim 99 is not within 1..32" in fails(capsys, "index", run, tree, "--out", out, "--dim", 99)
    assert "no folder" in fails(capsys, "index", run, tree, "--out", tmp_path / "absent" / "index.npz")
    (empty / "broken.png").write_bytes(b"no image")
    assert "none of the 1 files" in fails(capsys, "index", run, empty, "--out", out)
    assert not out.exists()


def test_search_errors(made, tree, tmp_path, capsys):
    assert "no index at" in fails(capsys, "search", tmp_path / "absent.npz", "red")
    assert "is not an index" in fails(capsys, "search", tree / "photo.png", "red")
    np.savez(tmp_path / "other.npz", vectors=np.zeros((1, 8), np.float32))
    assert "is not an index" in fails(capsys, "search", tmp_path / "other.npz", "red")
    np.savez(tmp_path / "pickle.npz", vectors=np.array([{}]), allow_pickle=True)
    assert "is not an index" in fails(capsys, "search", tmp_path / "pickle.npz", "red")
    assert "cannot be embedded" in fails(capsys, "search", made, tree / "broken.png")
    assert "no file absent.png" in fails(capsys, "search", made, "absent.png")
    assert "half a surrogate pair" in fails(capsys, "search", made, "red \udcff")
    assert "--k 0: at least 1" in fails(capsys, "search", made, "red", "--k", 0)
    with pytest.raises(SystemExit) as error:
        command.main(["search", str(made), "red", "--task", "poetry"])
    assert error.value.code == 2


def test_search_knows_its_checkpoint(tree, tokenizer, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "index.npz"
    save(run, tokenizer, seed=0)
    assert command.main(["index", str(run), str(tree), "--out", str(out)]) == 0
    capsys.readouterr()
    shutil.rmtree(run)
    assert "no finished checkpoint at" in fails(capsys, "search", out, "red")
    save(run, tokenizer, seed=1)
    assert "has changed since" in fails(capsys, "search", out, "red")
    (run / "tokenizer.json").unlink()
    assert "tokenizer.json" in fails(capsys, "search", out, "red")
