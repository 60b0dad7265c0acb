"""GGUF files become folders: every quantization within its step, config and norms as llama.cpp means them."""

import json
import struct
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

pytest.importorskip("gguf", reason="needs the extra [gguf]")

import gguf
import jax
from gguf_model import SIZES, make_fields, make_tensors, write_gguf

from embed import hf
from embed.__main__ import main
from embed.hf.fields import HubError
from embed.hf.gguf import LAYER_TENSORS, convert_gguf
from embed.training.metadata import read_metadata
from embed.training.weights import load_params

# The largest error of a value, as a part of the largest value of its block of 32: half a step, and the scale in f16.
STEPS = {
    "F32": 0,
    "F16": 2**-11,
    "BF16": 2**-8,
    "Q8_0": 0.5 / 127 + 2**-10,
    "Q5_0": 1 / 16 + 2**-10,
    "Q5_1": 1 / 31 + 2**-9,
    "Q4_0": 1 / 8 + 2**-10,
    "Q4_1": 1 / 15 + 2**-9,
}
TENSORS = make_tensors(len(make_fields(**SIZES)["tokenizer.ggml.tokens"]), **SIZES)


def convert(path, folder):
    folder.mkdir()
    convert_gguf(path, folder)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


@pytest.mark.parametrize("quantization", STEPS)
def test_every_quantization_is_read_within_its_step(tmp_path, quantization):
    _, tensors = convert(write_gguf(tmp_path / "x.gguf", quantization=quantization), tmp_path / "x")
    names = {"embed_tokens.weight": "token_embd.weight"} | {
        f"layers.{layer}.{module}.weight": f"blk.{layer}.{name}.weight"
        for layer in range(SIZES["layers"])
        for name, module in LAYER_TENSORS.items()
        if "norm" not in name
    }
    assert tensors.keys() - names.keys() == {name for name in tensors if "norm" in name}
    for name, source in names.items():
        expected = TENSORS[source].reshape(-1, 32)
        error = np.abs(tensors[name].reshape(-1, 32) - expected)
        largest = np.abs(expected).max(1, keepdims=True)
        assert (error <= STEPS[quantization] * largest + 1e-7).all(), name
        assert (error > 0).any() == (quantization != "F32")


def test_norms_are_stored_as_their_difference_from_one(tmp_path):
    _, tensors = convert(write_gguf(tmp_path / "x.gguf"), tmp_path / "x")
    assert np.array_equal(tensors["norm.weight"], TENSORS["output_norm.weight"] - np.float32(1))
    norm = "layers.3.self_attn.q_norm.weight"
    assert np.array_equal(tensors[norm], TENSORS["blk.3.attn_q_norm.weight"] - np.float32(1))
    assert abs(tensors[norm]).max() < 0.6
    assert all(value.dtype == np.float32 for value in tensors.values())


@pytest.mark.parametrize("layers", [6, 8, 12])
def test_config_has_what_the_file_says(tmp_path, layers):
    sizes = SIZES | {"layers": layers}
    tensors = make_tensors(len(make_fields(**sizes)["tokenizer.ggml.tokens"]), **sizes)
    config, _ = convert(write_gguf(tmp_path / "x.gguf", make_fields(**sizes), tensors), tmp_path / "x")
    local = "sliding_attention"
    assert config["layer_types"] == [local if (i + 1) % 6 else "full_attention" for i in range(layers)]
    assert config["rope_parameters"][local] == {"rope_type": "default", "rope_theta": 1e4}
    assert config["rope_parameters"]["full_attention"] == {"rope_type": "default", "rope_theta": 1e6}
    assert config["rms_norm_eps"] == 1e-6  # not the float32 beside it
    expected = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 6,
        "vocab_size": len(tensors["token_embd.weight"]),
        "max_position_embeddings": 64,
        "use_bidirectional_attention": False,
        "final_logit_softcapping": None,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    assert expected.items() <= config.items()


def test_optional_fields(tmp_path, caplog):
    fields = {
        "gemma3.attention.sliding_window_pattern": 4,
        "gemma3.rope.freq_base_swa": 5e3,
        "gemma3.rope.scaling.type": "linear",
        "gemma3.rope.scaling.factor": 8.0,
        "gemma3.final_logit_softcapping": 30.0,
        "gemma3.attention.causal": False,
        "gemma3.new_feature": 7,
    }
    config, _ = convert(write_gguf(tmp_path / "x.gguf", fields), tmp_path / "x")
    assert config["layer_types"] == [*["sliding_attention"] * 3, "full_attention"] * 2
    rope = config["rope_parameters"]
    assert rope["sliding_attention"] == {"rope_type": "default", "rope_theta": 5e3}
    assert rope["full_attention"] == {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    assert config["final_logit_softcapping"] == 30.0 and config["use_bidirectional_attention"]
    assert "fields not read: gemma3.new_feature" in caplog.text


def test_embeddinggemma_is_bidirectional_and_has_its_dense_modules(tmp_path):
    rng = np.random.default_rng(0)
    dense = {"dense_2.weight": rng.normal(size=(128, 64)), "dense_3.weight": rng.normal(size=(64, 128))}
    dense = {name: value.astype(np.float32) for name, value in dense.items()}
    fields = {"gemma-embedding.pooling_type": 1, "tokenizer.ggml.add_eos_token": True}
    fields = make_fields("gemma-embedding", **SIZES) | fields
    path = tmp_path / "x.gguf"
    writer_fields = {name: value for name, value in fields.items() if not name.startswith("gemma3.")}
    write_gguf(path, {**dict.fromkeys(make_fields(**SIZES)), **writer_fields}, TENSORS | dense, arch="gemma-embedding")
    config, _ = convert(path, tmp_path / "x")
    assert config["use_bidirectional_attention"] and config["sliding_window"] == 6
    for tensor, module in (("dense_2.weight", "2_Dense"), ("dense_3.weight", "3_Dense")):
        weight = load_file(tmp_path / "x" / module / "model.safetensors")["linear.weight"]
        assert np.array_equal(weight, dense[tensor])
    modules = json.loads((tmp_path / "x" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Dense", "3_Dense", "4_Normalize"]
    arch = hf.read_architecture(tmp_path / "x")
    assert (arch.attention, arch.pooling, arch.embed_dim) == ("bidirectional", "mean", 64)


def test_the_command_imports_a_file(tmp_path, process_state, monkeypatch):
    """The checkpoint holds the file's values, and says where they are from; the converted folder is gone."""
    monkeypatch.setenv("EMBED_CACHE", str(tmp_path / "cache"))
    path = write_gguf(tmp_path / "x.gguf")
    run = tmp_path / "run"
    assert main(["import", str(path), str(run)]) == 0
    assert read_metadata(run)["init"] == str(path)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(load_params(run))]
    table = TENSORS["token_embd.weight"]
    assert any(leaf.shape == table.shape and np.array_equal(leaf, table) for leaf in leaves)
    assert not list((tmp_path / "cache").iterdir())


def test_an_untouched_installation_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gguf", None)  # as Python remembers that there is none
    assert main(["import", str(tmp_path / "x.gguf"), str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.endswith("pip install 'embed[gguf]'\n")


REQUIRED = sorted(
    name
    for name in make_fields(**SIZES)
    if not name.startswith("tokenizer.ggml.add_") and not name.endswith("value_length")
)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_field_is_named(tmp_path, name):
    path = write_gguf(tmp_path / "x.gguf", {name: None}, TENSORS)
    with pytest.raises(HubError, match=f"x.gguf: no field {name}"):
        convert(path, tmp_path / "x")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gemma3.block_count": 0}, "gemma3.block_count is '0'; expected a number of 1 or more"),
        ({"gemma3.block_count": 5000}, "gemma3.block_count is 5,000; at most 1000"),
        ({"gemma3.embedding_length": "wide"}, "gemma3.embedding_length is 'wide'"),
        ({"gemma3.attention.head_count_kv": [2, 2]}, "gemma3.attention.head_count_kv"),
        ({"gemma3.attention.value_length": 16}, "value_length is not key_length, 32"),
        ({"gemma3.attention.head_count": 8}, r"blk.0.attn_q.weight is \[128, 64\]; its fields say \[256, 64\]"),
        ({"gemma3.rope.freq_base": float("nan")}, "gemma3.rope.freq_base is 'nan'"),
        ({"gemma3.pooling_type": 3}, "pooling_type is not 1"),
        ({"tokenizer.ggml.model": "gpt2"}, "tokenizer.ggml.model is 'gpt2'; only SentencePiece"),
        ({"tokenizer.ggml.add_space_prefix": True}, "add_space_prefix is true"),
        ({"tokenizer.ggml.scores": [0.0, 1.0]}, "tokenizer.ggml.scores"),
        ({"tokenizer.ggml.bos_token_id": 10**6}, "bos_token_id is '1000000'; expected an id below"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(tmp_path, fields, message):
    path = write_gguf(tmp_path / "x.gguf", fields, TENSORS)
    with pytest.raises(HubError, match=f"x.gguf: {message}|x.gguf: .*{message}"):
        convert(path, tmp_path / "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blk.2.ffn_up.weight": None}, "no tensor blk.2.ffn_up.weight"),
        ({"token_embd.weight": None}, "no tensor token_embd.weight"),
        ({"blk.1.attn_norm.weight": np.ones(63, "f4")}, r"blk.1.attn_norm.weight is \[63\]; its fields say \[64\]"),
        ({"v.patch_embd.weight": np.ones((4, 64), "f4")}, "1 tensors are not known, such as v.patch_embd.weight"),
        ({"blk.0.ffn_up.weight": np.full((96, 64), np.nan, "f4")}, "blk.0.ffn_up.weight .F32. holds NaN or infinity"),
        ({"blk.0.ffn_up.weight": np.ones((96, 64), "i4")}, "blk.0.ffn_up.weight: .* cannot dequantize I32"),
    ],
    ids=["missing", "no table", "shape", "unknown", "NaN", "integers"],
)
def test_a_wrong_tensor_is_named(tmp_path, changes, message):
    tensors = {name: value for name, value in (TENSORS | changes).items() if value is not None}
    with pytest.raises(HubError, match=f"x.gguf: {message}"):
        convert(write_gguf(tmp_path / "x.gguf", tensors=tensors), tmp_path / "x")


def test_another_architecture_is_named(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", arch="llama")
    with pytest.raises(HubError, match=r"general\.architecture is 'llama'; implemented are gemma3 and gemma-embedding"):
        convert(path, tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"PK\x03\x04" + bytes(100),
        b"version https://git-lfs.github.com/spec/v1\n",
        b"GGUF\3\0\0\0" + b"\xff" * 64,
    ],
    ids=["empty", "magic", "zip", "lfs", "counts"],
)
def test_another_format_is_refused(tmp_path, content):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(HubError, match=r"x\.gguf is"):
        convert(path, tmp_path / "x")


def test_big_endian_is_refused(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", endian=gguf.GGUFEndian.BIG)
    with pytest.raises(HubError, match="not little-endian"):
        convert(path, tmp_path / "x")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    content = write_gguf(tmp_path / "x.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for number, size in enumerate(np.random.default_rng(0).integers(0, len(content) - 1, 60)):
        path.write_bytes(content[:size])
        with pytest.raises(HubError, match=r"cut\.gguf"):
            convert(path, tmp_path / f"x{number}")


def test_changed_bytes_never_end_in_another_error(tmp_path):
    """Only a HubError of one line, or a model of finite numbers."""
    content = write_gguf(tmp_path / "x.gguf").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "changed.gguf"
    refused = 0
    for number in range(150):
        changed = bytearray(content)
        for place in rng.integers(0, 30_000, 3):  # fields and tensor names come first
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            _, tensors = convert(path, tmp_path / f"x{number}")
        except HubError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            assert all(np.isfinite(value).all() for value in tensors.values())
    assert 10 < refused < 150


def test_an_array_that_claims_to_be_huge_is_refused_at_once(tmp_path):
    content = write_gguf(tmp_path / "x.gguf").read_bytes()
    name = b"tokenizer.ggml.scores"
    length = content.index(name) + len(name) + 8  # behind the two types
    path = tmp_path / "huge.gguf"
    for claimed in (2**22, 2**60):
        path.write_bytes(content[:length] + struct.pack("<Q", claimed) + content[length + 8 :])
        with pytest.raises(HubError, match=rf"huge.gguf .* an array of {claimed:,} items"):
            convert(path, tmp_path / str(claimed))
