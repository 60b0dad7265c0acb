"""The JSON files of a model's folder: fields that are missing, or not as expected, are errors that name them."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

LOCAL, GLOBAL = "sliding_attention", "full_attention"  # layer types
EPSILON = 1e-6
# Values of a config that our modules assume.
FIXED = {"rms_norm_eps": EPSILON, "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False}
POINTER = b"version https://git-lfs"
MAX_LAYERS = 1000
Kinds = dict[str, tuple[str, Callable[[Any], bool]]]  # field -> its type in words, and whether a value is of it
# The types of a config's fields, wherever they are in it.
KINDS: Kinds = {
    **dict.fromkeys(
        ("attention_chunk_size", "conv_kernel_size", "embedding_dim", "global_head_dim", "head_dim", "hidden_size",
         "intermediate_size", "max_soft_tokens", "num_attention_heads", "num_global_key_value_heads",
         "num_key_value_heads", "output_proj_dims", "patch_size", "pooling_kernel_size",
         "position_embedding_size", "query_pre_attn_scalar", "sliding_window", "sliding_window_pattern", "vocab_size",
         "vocab_size_per_layer_input"),
        ("a number of 1 or more", lambda x: type(x) is int and 1 <= x < 2**31),
    ),
    **dict.fromkeys(
        ("attention_context_left", "attention_context_right", "audio_embed_dim", "hidden_size_per_layer_input",
         "mm_posemb_size", "num_kv_shared_layers"),
        ("a number of 0 or more", lambda x: type(x) is int and 0 <= x < 2**31),
    ),
    **dict.fromkeys(
        ("attention_logit_cap", "gradient_clipping", "partial_rotary_factor", "residual_weight", "rope_local_base_freq",
         "rope_theta"),
        ("a number", lambda x: type(x) in (int, float)),
    ),
    **dict.fromkeys(
        ("audio_config", "full_attention", "image_processor", "quantization_config", "rope_parameters",
         "rope_scaling", "sliding_attention", "text_config", "video_processor", "vision_config"),
        ("an object", lambda x: isinstance(x, dict)),
    ),
    **dict.fromkeys(
        ("add_timestamps", "attention_k_eq_v", "standardize", "use_clipped_linears", "use_double_wide_mlp"),
        ("true or false", lambda x: isinstance(x, bool)),
    ),
    "rope_type": ("a string", lambda x: isinstance(x, str)),
    "per_layer_config": (
        "objects by the numbers of layers",
        lambda x: isinstance(x, dict) and all(key.isdecimal() and isinstance(value, dict) for key, value in x.items()),
    ),
    "num_hidden_layers": (f"a number of 1 to {MAX_LAYERS}", lambda x: type(x) is int and 1 <= x <= MAX_LAYERS),
    "layer_types": ("a list", lambda x: isinstance(x, list) and 0 < len(x) <= MAX_LAYERS),
    "subsampling_conv_channels": ("two numbers", lambda x: isinstance(x, list) and [*map(type, x)] == [int, int]),
}  # fmt: skip


class HubError(ValueError):
    """A folder that is not a model embed can read or write; the message names the file, the field or the tensors."""


class JsonFields(dict[str, Any]):
    """A JSON object of `path`; `[]` raises HubError where the field is missing."""

    def __init__(self, fields: dict[str, Any], path: pathlib.Path):
        super().__init__(fields)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise HubError(f"{self.path}: no {name}")


def check_downloaded(path: pathlib.Path) -> None:
    """Raise HubError where a file is the pointer that git-lfs leaves in place of a large one."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise HubError(f"{path} is a git-lfs pointer, not the file: run `git lfs pull` in {path.parent}")


def read_json(path: pathlib.Path, kinds: Kinds = KINDS) -> dict[str, Any]:
    """Read a JSON object without its null fields; {} where the file is missing.

    Raises HubError where it is not a JSON object, or a field is not of its type in `kinds`.
    """
    if not path.exists():
        return {}
    check_downloaded(path)
    try:
        value = json.loads(
            path.read_text(encoding="utf-8"), object_hook=lambda fields: check_fields(fields, path, kinds)
        )
    except HubError:
        raise
    except ValueError as error:
        raise HubError(f"{path} is not JSON: {error}") from error
    except RecursionError as error:
        raise HubError(f"{path} cannot be read: it is nested too deep") from error
    if not isinstance(value, dict):
        raise HubError(f"{path} is not a JSON object but a {type(value).__name__}")
    return value


def check_fields(fields: dict[str, Any], path: pathlib.Path, kinds: Kinds) -> JsonFields:
    """The fields that are not null. Raises HubError where one is not of its type in `kinds`."""
    present = {name: value for name, value in fields.items() if value is not None}
    for name in present.keys() & kinds.keys():
        expected, holds = kinds[name]
        if not holds(present[name]):
            raise HubError(f"{path}: {name} is {json.dumps(present[name])[:80]}; expected {expected}")
    return JsonFields(present, path)


def check_values(config: dict[str, Any], path: pathlib.Path, expected: dict[str, Any]) -> None:
    """Raise HubError, naming every such field, where a field is present and not as `expected`."""
    wrong = [f"{k} {config[k]!r} (only {v!r})" for k, v in expected.items() if config.get(k, v) not in (v, None)]
    if wrong:
        raise HubError(f"{path}: {', '.join(wrong)}: not a model that embed implements")
