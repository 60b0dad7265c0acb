"""The text model of a published EmbeddingGemma 2 folder as our parameters, from safetensors, without torch.

The tables below are the whole mapping: our leaf, their tensor, and how the axes of theirs become ours. Images and audio
still enter encoder-free: the towers of the checkpoint are left out, their embedders start anew, and both are said.
"""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from einops import EinopsError, rearrange
from safetensors import SafetensorError, safe_open

from embed import checkpoint
from embed.data.layout import Budget, Layout, empty, stack
from embed.data.tokenizer import Tokenizer
from embed.mesh import to_global
from embed.model.encoder import Encoder, init
from embed.model.presets import BASE, Architecture, AttentionSpec

log = logging.getLogger(__name__)
Path = tuple[str, ...]
WHOLE: dict[Path, tuple[str, str]] = {
    ("vocabulary",): ("embed_tokens.weight", "v d -> v d"),
    ("backbone", "per_layer", "project", "weight"): ("ple.per_layer_model_projection.weight", "(n p) d -> d n p"),
    ("backbone", "per_layer", "norm", "scale"): ("ple.per_layer_projection_norm.weight", "p -> p"),
    ("backbone", "final_norm", "scale"): ("norm.weight", "d -> d"),
    ("projection", "weight"): ("embedding_projection.weight", "e d -> d e"),
}
LAYER: dict[Path, tuple[str, str]] = {
    ("attention", "query", "weight"): ("self_attn.q_proj.weight", "(h k) d -> d h k"),
    ("attention", "key", "weight"): ("self_attn.k_proj.weight", "(h k) d -> d h k"),
    ("attention", "value", "weight"): ("self_attn.v_proj.weight", "(h k) d -> d h k"),
    ("attention", "out", "weight"): ("self_attn.o_proj.weight", "d (h k) -> h k d"),
    ("attention", "query_norm", "scale"): ("self_attn.q_norm.weight", "k -> k"),
    ("attention", "key_norm", "scale"): ("self_attn.k_norm.weight", "k -> k"),
    ("attention_pre", "scale"): ("input_layernorm.weight", "d -> d"),
    ("attention_post", "scale"): ("post_attention_layernorm.weight", "d -> d"),
    ("mlp_pre", "scale"): ("pre_feedforward_layernorm.weight", "d -> d"),
    ("mlp_post", "scale"): ("post_feedforward_layernorm.weight", "d -> d"),
    ("mlp", "gate", "weight"): ("mlp.gate_proj.weight", "f d -> d f"),
    ("mlp", "up", "weight"): ("mlp.up_proj.weight", "f d -> d f"),
    ("mlp", "down", "weight"): ("mlp.down_proj.weight", "d f -> f d"),
    ("per_layer_gate", "weight"): ("ple_block.per_layer_input_gate.weight", "p d -> d p"),
    ("per_layer_out", "weight"): ("ple_block.per_layer_projection.weight", "d p -> p d"),
    ("per_layer_post", "scale"): ("ple_block.post_per_layer_input_norm.weight", "d -> d"),
    ("scalar",): ("layer_scalar", "1 ->"),
}
TOWERS = ("vision_tower.", "embed_vision.", "audio_tower.", "embed_audio.")


class HubError(ValueError):
    """A folder that is not such a model; the message names the file, the field or the tensors."""


def architecture(folder: str | os.PathLike) -> Architecture:
    """The architecture of `folder/config.json`. Raises HubError for a model of another kind, OSError without a file."""
    path = pathlib.Path(folder) / "config.json"
    config = json.loads(path.read_text())
    text = config.get("text_config", config)
    if text.get("model_type") != "embedding_gemma2_text":
        raise HubError(f"{path}: model_type {config.get('model_type')!r}; only embedding_gemma2 can be read")
    if text["rms_norm_eps"] != 1e-6 or text["attention_bias"] or text["hidden_activation"] != "gelu_pytorch_tanh":
        raise HubError(f"{path}: only rms_norm_eps 1e-6, gelu_pytorch_tanh and no attention bias are known")
    kinds = text["layer_types"]
    n = kinds.index("full_attention") + 1
    if kinds != [*["sliding_attention"] * (n - 1), "full_attention"] * (len(kinds) // n):
        raise HubError(f"{path}: layer_types: not whole groups of {n - 1} sliding layers and a full one")

    differing = {int(layer): own for layer, own in text.get("per_layer_config", {}).items()}  # "05" and "11"

    def spec(layer: int, window: int) -> AttentionSpec:
        own = text | differing.get(layer, {})
        rope = text["rope_parameters"][kinds[layer]]
        share = {"default": 1.0, "proportional": rope.get("partial_rotary_factor", 1.0)}.get(rope["rope_type"])
        if share is None:
            raise HubError(f"{path}: rope_type {rope['rope_type']!r}; known are default and proportional")
        heads = own["num_attention_heads"], own["num_key_value_heads"], own["head_dim"]
        return AttentionSpec(*heads, theta=rope["rope_theta"], window=window, rotary=share)

    full = spec(n - 1, 0)
    e = text["embedding_dim"]
    return Architecture(
        vocabulary=text["vocab_size"],
        width=text["hidden_size"],
        hidden=text["intermediate_size"],
        groups=len(kinds) // n,
        locals=n - 1,
        local_attention=spec(0, text["sliding_window"]) if n > 1 else full,
        global_attention=full,
        per_layer=text["hidden_size_per_layer_input"],
        patch=BASE.patch,
        image_patches=BASE.image_patches,
        frame_patches=BASE.frame_patches,
        patch_positions=BASE.patch_positions,
        audio_frame=BASE.audio_frame,
        widths=(*(width for width in BASE.widths if width < e), e),
    )


def load(folder: str | os.PathLike, arch: Architecture, tokenizer: Tokenizer, seed: int = 0) -> dict[str, Any]:
    """Parameters f32 of `Encoder(arch)`, laid out on the present mesh, one leaf in host memory at a time.

    What the folder does not hold (the embedders of images and audio) is made from `seed`. Raises HubError naming every
    tensor that is missing, misshapen or unexpected, OSError where a file is missing.
    """
    layout = Layout(tokenizer, arch.patch, arch.image_patches, arch.frame_patches, arch.audio_frame)
    inputs = to_global(stack([empty(Budget(1), layout)], Budget(1), layout))
    encoder, key = Encoder(arch), jax.random.key(seed)
    shapes = checkpoint.concrete(jax.eval_shape(lambda: init(encoder, key, inputs)))
    fresh = jax.jit(lambda: {name: init(encoder, key, inputs)[name] for name in ("vision", "audio")})()
    files = _index(pathlib.Path(folder))
    first = next((name for name in files if name.endswith("embed_tokens.weight")), "")
    start = first.removesuffix("embed_tokens.weight")  # "language_model." in the multimodal model
    wrong, unread = [], {name for name in files if not name.startswith(TOWERS)}

    def read(name: str, axes: str, shape: tuple[int, ...]) -> np.ndarray:
        name = start + name
        unread.discard(name)
        if name not in files:
            wrong.append(f"{name} is missing")
            return np.zeros(shape, np.float32)
        tensor = _tensor(files[name], name)
        try:
            return rearrange(tensor, axes, **dict(zip(axes.split("->")[1].split(), shape, strict=True)))
        except EinopsError:
            wrong.append(f"{name} is {list(tensor.shape)}, which does not make {list(shape)}")
            return np.zeros(shape, np.float32)

    def leaf(path: tuple, like: jax.ShapeDtypeStruct) -> jax.Array:
        keys: Path = tuple(part.key for part in path)
        if keys[:2] == ("backbone", "groups"):
            place, n = keys[2], arch.locals + 1
            offset = arch.locals if place == "global" else int(place.removeprefix("local_"))
            name, axes = LAYER[keys[3:]]
            layers = [f"layers.{group * n + offset}.{name}" for group in range(arch.groups)]
            value = np.stack([read(layer, axes, like.shape[1:]) for layer in layers])
        else:
            value = read(*WHOLE[keys], like.shape)
        return jax.device_put(value.astype(np.float32), like.sharding)

    held = {name: tree for name, tree in shapes.items() if name not in fresh}
    params = jax.tree_util.tree_map_with_path(leaf, held)
    wrong += [f"{name} is not known" for name in sorted(unread)]
    if wrong:
        raise HubError(f"{folder} does not hold this architecture: {'; '.join(wrong)}")
    left_out = sum(name.startswith(TOWERS) for name in files)
    log.info("%s: %d tensors of towers left out; embedders of images and audio are new", folder, left_out)
    return params | fresh


def _index(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Tensor -> the file of `folder` it is in."""
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise HubError(f"no .safetensors file in {folder}")
    found: dict[str, pathlib.Path] = {}
    for shard in shards:
        with _opened(shard) as file:
            found |= dict.fromkeys(file.keys(), shard)
    return found


def _tensor(path: pathlib.Path, name: str) -> np.ndarray:
    with _opened(path) as file:
        return file.get_tensor(name)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise HubError(f"{path} is not a whole safetensors file: {error}") from error
