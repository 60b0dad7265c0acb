"""GGUF -> the Hugging Face layout: a Gemma 3 or EmbeddingGemma of llama.cpp as a folder that embed.hf reads.

Names, norms and defaults: llama.cpp's convert_hf_to_gguf.py (Gemma3Model, EmbeddingGemma) and the models it loads.
"""

import json
import logging
import math
import pathlib
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from embed.hf.fields import GLOBAL, LOCAL, MAX_LAYERS, HubError
from embed.hf.gguf_file import GGUFFile
from embed.hf.gguf_tokenizer import build_tokenizer

log = logging.getLogger(__name__)
CAUSAL, EMBEDDER = "gemma3", "gemma-embedding"  # general.architecture
TABLE = "token_embd.weight"
PERIOD = 6  # layers of a group, of which the last attends globally
LOCAL_THETA = 1e4
LAYERS_27B = 62  # llama.cpp knows the 27B by it: its query scale is that of the width
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
DENSE = {"dense_2.weight": "2_Dense", "dense_3.weight": "3_Dense"}  # of an EmbeddingGemma: tensor -> its module
MEAN_POOLING = 1  # llama.cpp's pooling_type
SPECIAL_IDS = {"pad": "padding", "eos": "eos", "bos": "bos", "unk": "unknown"}  # transformers' name -> GGUF's


def convert_gguf(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Write a GGUF file's model into `folder`: config.json, model.safetensors in float32, tokenizer.json, modules.

    One tensor is in memory at a time. The log has the quantizations and the fields that are not read. Raises HubError,
    naming the field or tensor, for another architecture, and for a file that is incomplete, corrupt or quantized in a
    way that the gguf package cannot read.
    """
    file = GGUFFile(path)
    config = read_config(file)
    names = name_tensors(config["num_hidden_layers"])
    _check_tensors(file, config, names)
    quantizations = Counter(tensor.tensor_type.name for tensor in file.tensors.values())
    listed = ", ".join(f"{count} {name}" for name, count in quantizations.most_common())
    log.info("%s: tensors dequantized to float32: %s", path, listed)
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer_config.json", _make_tokenizer_json(file, config))
    build_tokenizer(file).save(str(folder / "tokenizer.json"))
    with tqdm(total=len(file.tensors), desc=path.name, unit="tensor", disable=not sys.stderr.isatty()) as bar:

        def read(name: str) -> np.ndarray:
            value = file.read(name)
            bar.update()
            return value - np.float32(1) if name.endswith("norm.weight") else value  # stored as 1 + w

        _write_tensors(folder / "model.safetensors", {names[name]: (name, file.shape(name)) for name in names}, read)
        if config["use_bidirectional_attention"]:
            _write_modules(file, folder, read)


def read_config(file: GGUFFile) -> dict[str, Any]:
    """The config.json of the model. Raises HubError for another architecture, and for missing or wrong fields."""
    name = file.get_str("general.architecture")
    if name not in (CAUSAL, EMBEDDER):
        raise HubError(f"{file.path}: general.architecture is {name!r}; implemented are {CAUSAL} and {EMBEDDER}")
    layers = file.get_int(f"{name}.block_count")
    if layers > MAX_LAYERS:
        raise HubError(f"{file.path}: {name}.block_count is {layers:,}; at most {MAX_LAYERS} are read")
    width = file.get_int(f"{name}.embedding_length")
    heads = file.get_int(f"{name}.attention.head_count")
    head_dim = file.get_int(f"{name}.attention.key_length")
    if file.get_int(f"{name}.attention.value_length", head_dim) != head_dim:
        raise HubError(f"{file.path}: {name}.attention.value_length is not key_length, {head_dim}")
    if TABLE not in file.tensors:
        raise HubError(f"{file.path}: no tensor {TABLE}")
    period = file.get_int(f"{name}.attention.sliding_window_pattern", PERIOD)
    config = {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3TextModel"],
        "dtype": "float32",
        "vocab_size": file.shape(TABLE)[0],
        "hidden_size": width,
        "intermediate_size": file.get_int(f"{name}.feed_forward_length"),
        "num_hidden_layers": layers,
        "layer_types": [GLOBAL if number % period == 0 else LOCAL for number in range(1, layers + 1)],
        "num_attention_heads": heads,
        "num_key_value_heads": file.get_int(f"{name}.attention.head_count_kv"),
        "head_dim": head_dim,
        "query_pre_attn_scalar": width // heads if layers == LAYERS_27B else head_dim,
        "sliding_window": file.get_int(f"{name}.attention.sliding_window"),
        "use_bidirectional_attention": not file.get_bool(f"{name}.attention.causal", name == CAUSAL),
        "max_position_embeddings": file.get_int(f"{name}.context_length"),
        "rope_parameters": _read_rope(file, name),
        "rms_norm_eps": file.get_float(f"{name}.attention.layer_norm_rms_epsilon"),
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "final_logit_softcapping": file.get_float(f"{name}.final_logit_softcapping", 0.0) or None,
        **{f"{token}_token_id": file.get_id(field) for token, field in SPECIAL_IDS.items() if token != "unk"},
    }
    if file.get_int(f"{name}.pooling_type", MEAN_POOLING) != MEAN_POOLING:
        raise HubError(f"{file.path}: {name}.pooling_type is not {MEAN_POOLING} (mean)")
    if unread := sorted(field for field in file.fields.keys() - file.used if field.startswith(f"{name}.")):
        log.warning("%s: fields not read: %s", file.path, ", ".join(unread))
    return config


def _read_rope(file: GGUFFile, name: str) -> dict[str, Any]:
    """rope_parameters; llama.cpp scales the positions of global layers alone."""
    full: dict[str, Any] = {"rope_type": "default", "rope_theta": file.get_float(f"{name}.rope.freq_base")}
    if (scaling := file.get_str(f"{name}.rope.scaling.type", "none")) != "none":
        full |= {"rope_type": scaling, "factor": file.get_float(f"{name}.rope.scaling.factor")}
    local = {"rope_type": "default", "rope_theta": file.get_float(f"{name}.rope.freq_base_swa", LOCAL_THETA)}
    return {LOCAL: local, GLOBAL: full}


def name_tensors(layers: int) -> dict[str, str]:
    """GGUF's name -> the name in transformers' Gemma3TextModel."""
    blocks = {
        f"blk.{layer}.{name}.weight": f"layers.{layer}.{module}.weight"
        for layer in range(layers)
        for name, module in LAYER_TENSORS.items()
    }
    return {TABLE: "embed_tokens.weight", "output_norm.weight": "norm.weight"} | blocks


def _check_tensors(file: GGUFFile, config: dict[str, Any], names: dict[str, str]) -> None:
    """Raise HubError, naming the tensor, where one is missing, unknown or of another shape than `config` says."""
    width, hidden, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    shapes = {
        TABLE.removesuffix(".weight"): (config["vocab_size"], width),
        "attn_q": (queries, width),
        "attn_k": (keys, width),
        "attn_v": (keys, width),
        "attn_q_norm": (head_dim,),
        "attn_k_norm": (head_dim,),
        "attn_output": (width, queries),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }
    for name in names:
        if name not in file.tensors:
            raise HubError(f"{file.path}: no tensor {name}")
        expected = shapes.get(name.removesuffix(".weight").rpartition(".")[2], (width,))
        if file.shape(name) != expected:
            raise HubError(f"{file.path}: {name} is {list(file.shape(name))}; its fields say {list(expected)}")
    dense = DENSE if config["use_bidirectional_attention"] else {}
    if unknown := sorted(file.tensors.keys() - names.keys() - dense.keys()):
        raise HubError(f"{file.path}: {len(unknown)} tensors are not known, such as {unknown[0]}")


def _write_tensors(
    path: pathlib.Path, tensors: dict[str, tuple[str, tuple[int, ...]]], read: Callable[[str], np.ndarray]
) -> None:
    """Write float32 tensors, name -> (what `read` takes, shape), one after the other.

    The library's writer takes all tensors at once. Format: https://huggingface.co/docs/safetensors
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (_, shape) in tensors.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data are aligned
    with path.open("wb") as target:
        target.write(len(encoded).to_bytes(8, "little") + encoded)
        for source, _ in tensors.values():
            target.write(read(source).astype("<f4", copy=False).data)


def _write_modules(file: GGUFFile, folder: pathlib.Path, read: Callable[[str], np.ndarray]) -> None:
    """Write the modules that sentence-transformers applies after the model: mean, Dense layers, unit norm."""
    width = file.shape(TABLE)[1]
    modules = [
        ("", "base.modules.transformer.Transformer"),
        ("1_Pooling", "sentence_transformer.modules.pooling.Pooling"),
    ]
    _write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": width, "pooling_mode": "mean"})
    for tensor, module in DENSE.items():
        if tensor in file.tensors:
            out_features, in_features = file.shape(tensor)
            identity = {"bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
            config = {"in_features": in_features, "out_features": out_features, **identity}
            _write_json(folder / module / "config.json", config)
            weights = {"linear.weight": (tensor, file.shape(tensor))}
            _write_tensors(folder / module / "model.safetensors", weights, read)
            modules.append((module, "base.modules.dense.Dense"))
    modules.append((f"{len(modules)}_Normalize", "base.modules.normalize.Normalize"))
    _write_json(folder / modules[-1][0] / "config.json", {})
    listed = [
        {"idx": index, "name": str(index), "path": place, "type": f"sentence_transformers.{module}"}
        for index, (place, module) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", listed)


def _make_tokenizer_json(file: GGUFFile, config: dict[str, Any]) -> dict[str, Any]:
    tokens = file.get_tokens()
    special = {f"{token}_token": tokens[file.get_id(field)] for token, field in SPECIAL_IDS.items()}
    length = config["max_position_embeddings"]
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, **special}


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
