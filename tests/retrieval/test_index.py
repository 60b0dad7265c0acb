"""The commands: a folder indexed, what is skipped and said, and what a query finds."""

import os
import pathlib
import re
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image as Pillow
from samples import BAD, FILES, PHOTO, pdf, png, save

from embed import __main__ as command
from embed.data import budget
from embed.data.pieces import LimitError
from embed.distributed.mesh import make_mesh
from embed.embedder import Embedder
from embed.retrieval import folder_index

NAMES = ["clip.mp4", "note.txt", "page.pdf", "photo.png", "tone.wav", "deep/er/code.py"]  # in a tree, in its order


@pytest.fixture(scope="module", autouse=True)
def few_quick_compilations():
    """Most of the time here is XLA's: it does not optimise, and files are indexed one by one, in shapes seen before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_index, "CHUNK", 1)
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
    (tree / "round.txt").symlink_to(tree / "round.txt")
    (tree / ".git").mkdir()
    for name in (".git/config", ".env", "deep/.notes.txt"):
        (tree / name).write_text("hidden")
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
        assert "6 files embedded, 5 skipped" in said.out
        lines = dict(line.removeprefix("skipped ").split(": ", 1) for line in said.err.splitlines())
        assert lines.keys() == {"broken.png", "link.txt", "up", "gone.txt", "round.txt"}
        assert "truncated" in lines["broken.png"] and "No such file" in lines["gone.txt"]
        assert "symbolic links" in lines["round.txt"]
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
    vectors, names, _ = folder_index.read_index(made)
    scores = vectors @ embedder.embed([["a red square", tree / "photo.png", "left"]])[0]
    assert [name for _, _, name in found] == [names[i] for i in np.argsort(-scores)[:2]]
    found = ranks(capsys, made, "red", "--task", "clustering")
    scores = vectors @ embedder.embed(["red"], task="clustering")[0]
    np.testing.assert_allclose([float(score) for _, score, _ in found], np.sort(scores)[::-1], atol=1e-4)


def fails(capsys, *argv: Any) -> str:
    """The one line that a command ends with."""
    try:
        assert command.main([str(arg) for arg in argv]) == 2
    except SystemExit as error:  # of argparse
        assert error.code == 2
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


def test_a_place_that_cannot_be_written_is_an_error_before_anything_is_embedded(tree, tmp_path, capsys):
    """Even before the checkpoint is looked for; what is there stays as it is."""
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "kept.npz").write_bytes(b"kept")
    (tmp_path / "kept.npz").chmod(0o444)
    (tmp_path / "taken.npz.partial").mkdir()
    before = sorted(tmp_path.iterdir())
    for name, why in [
        ("folder.npz", "a folder or a device"),
        ("pipe.npz", "a folder or a device"),
        ("kept.npz", "is read-only"),
        ("taken.npz", "cannot be written to .*: Is a directory"),
        ("a" * 250 + ".npz", "cannot be written to .*: File name too long"),
        ("kept.npz/index.npz", "no folder .*kept.npz to write"),
    ]:
        line = fails(capsys, "index", tmp_path / "no-checkpoint", tree, "--out", tmp_path / name)
        assert re.search(why, line) and "checkpoint at" not in line
    assert "no finished checkpoint" in fails(
        capsys, "index", tmp_path / "no-checkpoint", tree, "--out", tmp_path / "a.npz"
    )
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "kept.npz").read_bytes() == b"kept"


def test_a_place_that_goes_away_is_named(tmp_path):
    out = tmp_path / "away" / "index.npz"
    with pytest.raises(ValueError, match=rf"cannot be written to {out}: No such file or directory"):
        folder_index.write_index(out, np.zeros((1, 8), np.float32), ["a.txt"], {})


def test_a_long_text_is_found_by_its_lines(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(budget, "MAX_TOKENS", 64)
    lines = ["a red square on the left"] * 20 + ["größer als"] * 20
    (tmp_path / "long.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "short.txt").write_text("left", encoding="utf-8")
    assert command.main(["index", str(run), str(tmp_path), "--out", str(tmp_path / "index.npz")]) == 0
    assert "2 files embedded, 0 skipped" in capsys.readouterr().out
    names = [name for _, _, name in ranks(capsys, tmp_path / "index.npz", "größer als")]
    parts = [name for name in names if name != "short.txt"]
    assert len(parts) > 1 and all(re.fullmatch(r"long\.txt#line=\d+", name) for name in parts)
    assert "long.txt#line=1" in parts and set(names) - set(parts) == {"short.txt"}


def test_a_defect_of_a_library_ends_an_index(run, folder, tmp_path, monkeypatch):
    """An argument that a new version no longer takes is no bad file."""

    def open_image(file, mode="r"):
        return None

    monkeypatch.setattr(Pillow, "open", open_image)
    with pytest.raises(TypeError, match="unexpected keyword argument 'formats'"):
        command.main(["index", str(run), str(folder), "--out", str(tmp_path / "index.npz")])


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
    assert "--k: 0: give an integer of at least 1" in fails(capsys, "search", made, "red", "--k", 0)
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
