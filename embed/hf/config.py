"""config.json -> Architecture; the way back is embed/hf/config_json.py.

Known are the text models of Gemma 3 (embed/hf/gemma3.py) and the Gemma 4 family: `embedding_gemma2`, `gemma4` without
experts, `gemma4_unified`. A causal one is read as the bidirectional encoder it becomes, its window of w tokens as
|i - j| <= w // 2; or as causal, on demand.
"""

import dataclasses
import os
import pathlib
from typing import Any

from embed.batch import MediaFormat
from embed.hf.dense import read_output_dim
from embed.hf.fields import FIXED, GLOBAL, LOCAL, HubError, Kinds, check_fields, check_values, read_json
from embed.hf.gemma3 import read_gemma3
from embed.model.attention import find_reach
from embed.model.config import Architecture, AttentionSpec, AudioTower, VisionTower, from_json
from embed.model.pooling import find_pooling
from embed.model.presets import EMBEDDINGGEMMA, EMBEDDINGGEMMA2, GEMMA3_270M, GEMMA4_12B, GEMMA4_E2B

ROPE: dict[str, dict[str, Any]] = {
    LOCAL: {"rope_type": "default", "rope_theta": 1e4},
    GLOBAL: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
}
NOT_KNOWN = {"enable_moe_block": False}
POOLING_MODES = {"mean": "mean", "last": "lasttoken", "first": "cls", "max": "max"}  # ours -> sentence-transformers'
EXTRA_KINDS: Kinds = {
    "matryoshka_dims": ("a list of numbers", lambda x: isinstance(x, list) and {type(item) for item in x} == {int}),
    "media": ("an object", lambda x: isinstance(x, dict)),
    "pooling": ("a string", lambda x: isinstance(x, str)),
    "attention": ("a string", lambda x: isinstance(x, str)),
}
# The same, in the folders of sentence-transformers before version 5.
EARLIER_POOLING_FIELDS = {
    "mean": "pooling_mode_mean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
}


def is_embedder(arch: Architecture) -> bool:
    """Whether `arch` is of the EmbeddingGemma 2 kind: per-layer embeddings projected from the input alone."""
    return bool(arch.per_layer_dim) and not arch.per_layer_vocab_size


def read_architecture(folder: str | os.PathLike, attention: str | None = None) -> Architecture:
    """Read the architecture of a model's folder: its config.json, and what its processor, its pooling and our export
    (embed.json) add.

    The attention direction is `attention`, else what embed.json says, else bidirectional: a published causal model is
    read as the encoder that it becomes. Raises HubError for a model of another kind, OSError without a config.json.
    """
    folder = pathlib.Path(folder)
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: give the folder of a model")
    config = read_json(path)
    model_type = str(config.get("model_type", "")).removesuffix("_text")
    presets = {
        "embedding_gemma2": EMBEDDINGGEMMA2,
        "gemma3": GEMMA3_270M,
        "gemma4": GEMMA4_E2B,
        "gemma4_unified": GEMMA4_12B,
    }
    if model_type not in presets:
        raise HubError(f"{path}: model_type {config.get('model_type')!r}; known are {', '.join(presets)}")
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "a method without a name")
        raise HubError(f"{path}: quantization_config: weights quantized by {method}: give the model before that")
    preset = presets[model_type]
    extra = _read_extra(folder / "embed.json")
    direction = attention or extra.get("attention", preset.attention)
    if model_type == "gemma3":
        arch = read_gemma3(config, path, direction)
        output_dim = read_output_dim(folder) or arch.d_model
        return dataclasses.replace(
            arch,
            media=extra.get("media") or arch.media,
            matryoshka_dims=extra.get("matryoshka_dims") or _widths(EMBEDDINGGEMMA, output_dim),
            pooling=extra.get("pooling") or _read_pooling(folder),
        )
    vision = _checked_tower(config.get("vision_config"), path)
    audio = _checked_tower(config.get("audio_config"), path)
    arch = _text(config.get("text_config") or config, path, preset, direction)
    return dataclasses.replace(
        arch,
        media=extra.get("media") or _media(vision, audio, folder, preset),
        matryoshka_dims=extra.get("matryoshka_dims", arch.matryoshka_dims),
        vision=_vision(vision) if vision and preset.vision else None,
        audio=_audio(audio) if audio and preset.audio else None,
        pooling=extra.get("pooling") or _read_pooling(folder),
        attention=direction,
    )


def _read_extra(path: pathlib.Path) -> dict[str, Any]:
    """What our export adds to a model's folder; {} where there is no embed.json."""
    fields = check_fields(read_json(path, {}), path, EXTRA_KINDS)
    if not fields:
        return {}
    if "widths" in fields:
        raise HubError(f"{path} is of an earlier version of embed: export the model again from its checkpoint")
    try:
        find_pooling(fields["pooling"])
        find_reach(fields["attention"], 0)
        media = from_json(MediaFormat, fields["media"])
    except HubError:
        raise
    except ValueError as error:
        raise HubError(f"{path}: {error}") from error
    names = ("pooling", "attention")
    return {name: fields[name] for name in names} | {
        "media": media,
        "matryoshka_dims": tuple(fields["matryoshka_dims"]),
    }


def _read_pooling(folder: pathlib.Path) -> str:
    """The pooling of a sentence-transformers folder; the mean where it says nothing."""
    path = folder / "1_Pooling" / "config.json"
    config = read_json(path)
    earlier = [mode for mode in POOLING_MODES.values() if config.get(EARLIER_POOLING_FIELDS[mode])]
    mode = config.get("pooling_mode") or next(iter(earlier), "mean")
    for name, theirs in POOLING_MODES.items():
        if mode == theirs:
            return name
    raise HubError(f"{path}: pooling_mode {mode!r}; known are {', '.join(POOLING_MODES.values())}")


def _text(text: dict[str, Any], path: pathlib.Path, preset: Architecture, attention: str) -> Architecture:
    check_values(text, path, FIXED | NOT_KNOWN)
    embedder = is_embedder(preset)
    layer_types = text.get("layer_types") or ([LOCAL] * 5 + [GLOBAL]) * (text["num_hidden_layers"] // 6)
    n = layer_types.index(GLOBAL) + 1 if GLOBAL in layer_types else len(layer_types)
    if not layer_types or layer_types != [*[LOCAL] * (n - 1), GLOBAL] * (len(layer_types) // n):
        raise HubError(f"{path}: layer_types: not whole groups of {n - 1} sliding layers and a full one")
    shared = text.get("num_kv_shared_layers", 0)
    if shared % n or shared >= len(layer_types):
        raise HubError(f"{path}: num_kv_shared_layers {shared}: not whole groups of {n} layers with one before them")
    if "per_layer_config" in text:
        differing = {int(layer): fields for layer, fields in text["per_layer_config"].items()}  # keys are "05" and "11"
    else:  # as earlier versions wrote it
        heads = text.get("num_global_key_value_heads") if text.get("attention_k_eq_v") else None
        override = {"head_dim": text.get("global_head_dim", 512)} | ({"num_key_value_heads": heads} if heads else {})
        differing = {layer: override for layer, layer_type in enumerate(layer_types) if layer_type == GLOBAL}

    def spec(layer: int, window: int, **more: Any) -> AttentionSpec:
        overrides = differing.get(layer, {})
        rope = (text.get("rope_parameters") or ROPE)[layer_types[layer]]
        rotary = {"default": 1.0, "proportional": rope.get("partial_rotary_factor", 1.0)}.get(rope["rope_type"])
        if rotary is None:
            raise HubError(f"{path}: rope_type {rope['rope_type']!r}; known are default and proportional")
        heads, kv_heads, size = (
            overrides.get(name) or text[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        return AttentionSpec(
            heads, kv_heads, size, rope_theta=rope["rope_theta"], window=window, partial_rotary_factor=rotary, **more
        )

    full = spec(n - 1, 0, key_is_value=text.get("attention_k_eq_v", False))
    window = text["sliding_window"]
    if attention == "causal":
        window = window - 1  # transformers counts the token itself
    elif not embedder:  # of a causal layer's w tokens, half on each side; "all" means |i - j| <= w // 2 + 1
        window = window // 2 + (text.get("use_bidirectional_attention") == "all")
    e = text["embedding_dim"] if embedder else read_output_dim(path.parent) or preset.matryoshka_dims[-1]
    per_layer = text.get("hidden_size_per_layer_input", 0) if preset.per_layer_dim else 0
    hidden = text["intermediate_size"]
    return Architecture(
        vocab_size=text["vocab_size"],
        d_model=text["hidden_size"],
        d_ff=hidden,
        layer_groups=len(layer_types) // n,
        local_per_group=n - 1,
        local_attention=spec(0, window) if n > 1 else full,
        global_attention=full,
        media=preset.media,
        matryoshka_dims=_widths(preset, e),
        per_layer_dim=per_layer,
        per_layer_vocab_size=text["vocab_size_per_layer_input"] if per_layer and not embedder else 0,
        shared_kv_groups=shared // n,
        shared_d_ff=(2 if text.get("use_double_wide_mlp") else 1) * hidden if shared else 0,
    )


def _widths(preset: Architecture, e: int) -> tuple[int, ...]:
    """The preset's Matryoshka widths below e, and e."""
    return (*(width for width in preset.matryoshka_dims if width < e), e)


def _checked_tower(config: dict[str, Any] | None, path: pathlib.Path) -> dict[str, Any] | None:
    if config is not None:
        check_values(config, path, FIXED | {"hidden_act": "silu"})
    return config


def _vision(config: dict[str, Any]) -> VisionTower:
    heads = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    rope_theta = (config.get("rope_parameters") or {}).get("rope_theta", 100.0)
    return VisionTower(
        d_model=config["hidden_size"],
        d_ff=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        attention=AttentionSpec(*heads, rope_theta=rope_theta),
        pool_size=config["pooling_kernel_size"],
        num_positions=config["position_embedding_size"],
        clipped=config["use_clipped_linears"],
        standardized=config.get("standardize", False),
    )


def _audio(config: dict[str, Any]) -> AudioTower:
    return AudioTower(
        d_model=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        conv_channels=tuple(config["subsampling_conv_channels"]),
        conv_kernel=config["conv_kernel_size"],
        chunk_size=config["attention_chunk_size"],
        left_context=config["attention_context_left"],
        right_context=config["attention_context_right"],
        logit_cap=config["attention_logit_cap"],
        ffn_residual_weight=config["residual_weight"],
        activation_clip=config["gradient_clipping"],
        output_dim=config["output_proj_dims"],
        clipped=config["use_clipped_linears"],
    )


def _media(vision: dict | None, audio: dict | None, folder: pathlib.Path, preset: Architecture) -> MediaFormat:
    processor = read_json(folder / "processor_config.json")
    image, video = processor.get("image_processor", {}), processor.get("video_processor", {})
    positions = (vision or {}).get("position_embedding_size", 0) // (vision or {}).get("pooling_kernel_size", 1)
    return dataclasses.replace(
        preset.media,
        patch_size=vision["patch_size"] * vision["pooling_kernel_size"] if vision else 0,
        max_patches_per_side=positions or (vision or {}).get("mm_posemb_size", 0),
        image_patches=image.get("max_soft_tokens", preset.media.image_patches),
        frame_patches=video.get("max_soft_tokens", preset.media.frame_patches),
        timestamps=video.get("add_timestamps", preset.media.timestamps),
        audio_frame_size=(audio or {}).get("audio_embed_dim", preset.media.audio_frame_size) if audio else 0,
        # The tower's first convolution halves its bins twice, and its projection counts on channels[0] of them.
        mel_bins=audio["subsampling_conv_channels"][0] if audio and preset.audio else 0,
    )
