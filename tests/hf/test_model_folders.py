"""Folders that are not a whole model of floating-point weights: one line that names the file, from both ways in."""

import dataclasses
import json
import pickle
import shutil
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from text_model import save_run, text_arch

from embed import hf
from embed.__main__ import main
from embed.data.preprocess import Preprocessor
from embed.data.tokenizer import Tokenizer
from embed.embedder import Embedder
from embed.hf.weights import open_tensors
from embed.model.build import build
from embed.training import loop, optim
from embed.training.metadata import read_metadata
from embed.training.published import export_checkpoint
from embed.training.weights import load_params

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
ONE = "language_model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def arch(tokenizer):
    return text_arch(tokenizer)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    return save_run(tmp_path_factory.mktemp("own") / "run", tokenizer)


@pytest.fixture(scope="module")
def exported(run):
    """The same model as a folder in the Hugging Face layout: model.safetensors, and 2_Dense beside it."""
    folder = run.parent / "exported"
    export_checkpoint(run, folder)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "model")


def to_run(folder):
    return main(["import", str(folder), str(folder.parent / "run")])


@pytest.fixture
def refusal(capsys):
    """The one line of the command, which `Embedder.load` raises too."""

    def refuse(folder):
        assert to_run(folder) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ")
        assert not (folder.parent / "run" / "checkpoints").exists()
        with pytest.raises(hf.HubError) as error:
            Embedder.load(folder)
        assert line == f"error: {error.value}"
        return line

    return refuse


def change(folder, name, edit):
    """A JSON file of the folder, edited in place."""
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))


def shard(folder, parts=3):
    """Puts the weights in several files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: f"model-{1 + i % parts:05}-of-{parts:05}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(names.values()):
        save_file({name: tensors[name] for name in names if names[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def write_as(path, dtype, size, name=ONE):
    """A safetensors file whose tensor of that name holds zeros of any dtype of the format."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    header.pop("__metadata__", None)
    new = [np.prod(header[name]["shape"]) * size, b"", 0]
    for each, about in header.items():
        start, end = about["data_offsets"]
        kept = bytes(int(new[0])) if each == name else body[start:end]
        about["data_offsets"] = [len(new[1]), len(new[1]) + len(kept)]
        new[1] += kept
    header[name]["dtype"] = dtype
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + new[1])


def test_a_whole_folder_is_read_however_it_is_cut(folder, run, caplog):
    save_file({"adapter.weight": np.ones(3, np.float32)}, folder / "adapter_model.safetensors")
    first = hf.load(folder)
    assert "adapter_model.safetensors" in caplog.text  # named, not read
    shard(folder)
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder / "consolidated.safetensors")
    caplog.clear()
    second = hf.load(folder)
    assert "adapter_model.safetensors, consolidated.safetensors" in caplog.text
    (folder / "model.safetensors.index.json").unlink()
    (folder / "consolidated.safetensors").unlink()
    (folder / "adapter_model.safetensors").unlink()
    for params in (first, second, hf.load(folder)):
        jax.tree.map(np.testing.assert_array_equal, params, load_params(run))
    to_run(folder)
    assert read_metadata(folder.parent / "run")["init"] == str(folder)


@pytest.mark.parametrize(
    ("dtype", "size"), [("F8_E4M3", 1), ("F8_E5M2", 1), ("I8", 1), ("U8", 1), ("I32", 4), ("C64", 8)]
)
def test_quantized_weights_are_refused(folder, refusal, dtype, size):
    write_as(folder / "model.safetensors", dtype, size)
    line = refusal(folder)
    # safetensors 0.6 does not know all of these
    assert f"model.safetensors: {ONE} is {dtype}" in line or f"unknown variant `{dtype}`" in line
    assert ("float8" in line) == dtype.startswith("F8")


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8"])
def test_a_config_that_says_quantized_is_refused(folder, refusal, method):
    change(folder, "config.json", lambda config: config.update(quantization_config={"quant_method": method}))
    assert f"config.json: quantization_config: weights quantized by {method}" in refusal(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(folder, refusal, value):
    tensors = load_file(folder / "model.safetensors")
    tensors[ONE][3, 4] = value
    save_file(tensors, folder / "model.safetensors")
    assert f"model.safetensors: {ONE} holds NaN or infinity in 1 of" in refusal(folder)


def test_weights_that_overflow_as_they_are_read_are_refused(folder, arch):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {ONE: np.full_like(tensors[ONE], 1e39, np.float64)}, folder / "model.safetensors")
    with pytest.raises(hf.HubError, match=f"{ONE} holds NaN or infinity .* float32"):
        hf.load(folder)
    save_file(tensors | {ONE: np.full_like(tensors[ONE], 1e6)}, folder / "model.safetensors")
    with pytest.raises(hf.HubError, match=f"{ONE} holds NaN or infinity .* float16"):
        hf.load(folder, dtype=np.float16)


def pickled_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def zip_of_a_pickle(folder):
    with zipfile.ZipFile(folder / "model.safetensors", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}))


def bare_pickle(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weight": [0.0] * 100}, protocol=2))


def write(name, content):
    def change_folder(folder):
        if name.startswith("model-") or name.endswith("index.json"):
            shard(folder)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change_folder


def index(edit):
    def change_folder(folder):
        shard(folder)
        change(folder, "model.safetensors.index.json", edit)

    return change_folder


def lost_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def two_models(folder):
    whole = (folder / "model.safetensors").read_bytes()
    shard(folder)
    (folder / "model.safetensors").write_bytes(whole)


def twice(folder):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")


def torn(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (pickled_only, "only pickled weights, which can run code: convert pytorch_model.bin to safetensors"),
        (zip_of_a_pickle, "model.safetensors is a pickle"),
        (bare_pickle, "model.safetensors is a pickle"),
        (torn, "model.safetensors is not a whole safetensors file"),
        (write("model.safetensors", ""), "model.safetensors is not a whole safetensors file"),
        (write("model-00002-of-00003.safetensors", b"\x00" * 100), "model-00002-of-00003.safetensors is not a whole"),
        (lost_shard, "index.json names model-00002-of-00003.safetensors, not in the folder"),
        (two_models, "has model.safetensors and an model.safetensors.index.json of other files"),
        (twice, "is both in a.safetensors and in b.safetensors"),
        (index(lambda i: i["weight_map"].update({ONE: "../x.safetensors"})), f"{ONE} in '../x.safetensors'"),
        (index(lambda i: i["weight_map"].update({ONE: "/x.safetensors"})), f"{ONE} in '/x.safetensors'"),
        (index(lambda i: i["weight_map"].update({ONE: 3})), f"{ONE} in 3"),
        (
            index(lambda i: i["weight_map"].update({"b": next(iter(i["weight_map"].values()))})),
            "index.json: b is not in",
        ),
        (index(lambda i: i.clear()), "index.json: no weight_map"),
        (write("model.safetensors", POINTER), "model.safetensors is a git-lfs pointer"),
        (write("model-00001-of-00003.safetensors", POINTER), "00001-of-00003.safetensors is a git-lfs pointer"),
        (write("2_Dense/model.safetensors", POINTER), "2_Dense/model.safetensors is a git-lfs pointer"),
        (write("model.safetensors.index.json", POINTER), "index.json is a git-lfs pointer"),
        (write("config.json", POINTER), "config.json is a git-lfs pointer, not the file: run `git lfs pull` in"),
        (write("tokenizer.json", POINTER), "tokenizer.json is a git-lfs pointer"),
        (write("tokenizer.json", "{}"), "tokenizer.json: not a tokenizer.json"),
        (write("tokenizer.json", b"\xff\xfe{"), "tokenizer.json: not a tokenizer.json"),
        (write("config.json", "{"), "config.json is not JSON"),
        (write("config.json", b"\xff{}"), "config.json is not JSON"),
        (write("config.json", "[]"), "config.json is not a JSON object but a list"),
        (write("config.json", "[" * 100_000), "nested too deep"),
        (write("config.json", '{"a":' * 100_000), "nested too deep"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_other_files_are_refused_by_name(folder, refusal, spoil, expected):
    spoil(folder)
    assert expected in refusal(folder)


def test_no_config_and_no_tokenizer(folder, capsys):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Embedder.load(folder)
    (folder / "config.json").unlink()
    assert to_run(folder) != 0 and "config.json is missing" in capsys.readouterr().err


def add_tokens(path, *, special):
    """Twenty tokens after the last, as people add them to a tokenizer without a row more for the model."""
    content = json.loads(path.read_text())
    first = 1 + max(content["model"]["vocab"].values())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": special}
    content["added_tokens"] += [{"id": first + i, "content": f"<custom{i}>", **flags} for i in range(20)]
    path.write_text(json.dumps(content))


@pytest.fixture
def last(arch):
    return f"tokenizer.json: '<custom19>' has id {arch.vocab_size + 19}, the largest of 20 that are beyond the "


def test_ids_beyond_the_table_are_refused(folder, refusal, last):
    add_tokens(folder / "tokenizer.json", special=False)
    assert last in refusal(folder)


def test_placeholders_beyond_the_table_are_refused(folder, refusal, arch):
    """As where media came after the text's vocabulary, whose tokens are special: no text holds them, but inputs do."""
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    for token in content["added_tokens"]:
        if token["content"] == "<|image|>":
            token["id"] = vocabulary["<|image|>"] = arch.vocab_size + 7
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert f"'<|image|>' has id {arch.vocab_size + 7}, the largest of 1 that are beyond" in refusal(folder)


def test_special_tokens_that_no_input_can_hold_are_not(folder, arch):
    add_tokens(folder / "tokenizer.json", special=True)
    assert max(hf.load_preprocessor(folder).tokenizer.encode("a <custom0> b <custom5>")) < arch.vocab_size


def test_ids_beyond_the_table_of_our_own_runs(run, tmp_path, arch, last):
    edited = shutil.copytree(run, tmp_path / "run")
    add_tokens(edited / "tokenizer.json", special=False)
    with pytest.raises(ValueError, match=last):
        Embedder.load(edited)
    plan = loop.Run(
        build(arch), [], None, optim.adamw(1e-3, warmup=1, steps=1), 1, 0, tmp_path, folder=tmp_path / "new"
    )
    with pytest.raises(ValueError, match=last):
        loop.fit(plan, Preprocessor(Tokenizer.load(edited / "tokenizer.json"), arch.media), [])
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_made_for_a_larger_model_is_refused(tmp_path, tokenizer, arch):
    tokenizer.save(tmp_path / "tokenizer.json")
    smaller = dataclasses.replace(arch, vocab_size=300)
    assert Preprocessor.load(tmp_path / "tokenizer.json", arch).media == arch.media
    with pytest.raises(
        ValueError, match=rf"tokenizer\.json: .* the largest of {arch.vocab_size - 300} that are beyond"
    ):
        Preprocessor.load(tmp_path / "tokenizer.json", smaller)


@pytest.mark.parametrize("size", [0x80, 0x280, 0x04034B50])  # of a header: as a pickle or a zip begins
def test_a_torn_file_is_no_pickle_whatever_its_header_is_long(tmp_path, size):
    (tmp_path / "model.safetensors").write_bytes(size.to_bytes(8, "little") + b'{"weight": ')
    with (
        pytest.raises(hf.HubError, match="is not a whole safetensors file"),
        open_tensors(tmp_path / "model.safetensors"),
    ):
        pass
