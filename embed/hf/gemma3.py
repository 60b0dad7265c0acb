"""Gemma 3's text models and EmbeddingGemma: config.json -> Architecture, and back.

Against Gemma 4: values are not normalized, scores are scaled, layers have no scalar, the last group may be incomplete,
and a norm is stored as the difference of its scale from 1. A causal layer's window of w tokens, the token itself among
them, is read as |i - j| <= w // 2 in the bidirectional encoder that the model becomes, as transformers reads it.
"""

import dataclasses
import pathlib
from typing import Any

from embed.hf.fields import EPSILON, FIXED, GLOBAL, LOCAL, HubError, check_values
from embed.model.config import Architecture, AttentionSpec
from embed.model.presets import GEMMA3_270M

GROUP = 6  # layers of a group, where a config does not list them
NORM_OFFSET = 1.0  # a norm's scale is this plus the stored value
NOT_KNOWN = {"final_logit_softcapping": None, "attn_logit_softcapping": None}
THETA = {LOCAL: 1e4, GLOBAL: 1e6}
EARLIER_THETA = {LOCAL: "rope_local_base_freq", GLOBAL: "rope_theta"}  # fields of configs before transformers 5


def is_gemma3(arch: Architecture) -> bool:
    """Whether `arch` has the layers of Gemma 3, without Gemma 4's scalars."""
    return not arch.layer_scalar


def read_gemma3(config: dict[str, Any], path: pathlib.Path, attention: str) -> Architecture:
    """Read the architecture of a Gemma 3 text model; media and widths are the preset's.

    Raises HubError for a model with a vision tower, or one that our modules do not compute.
    """
    if "vision_config" in config:
        raise HubError(f"{path}: a Gemma 3 with a vision tower is not implemented; give its text model (gemma3_text)")
    text = config.get("text_config") or config
    check_values(text, path, FIXED | NOT_KNOWN)
    groups, local_per_group, last_locals = _read_groups(text, path)
    window = text["sliding_window"]
    spec = AttentionSpec(
        num_heads=text["num_attention_heads"],
        num_kv_heads=text["num_key_value_heads"],
        head_dim=text["head_dim"],
        rope_theta=_read_theta(text, path, GLOBAL),
        value_norm=False,
        score_scale=text.get("query_pre_attn_scalar", 256) ** -0.5,
    )
    reach = window - 1 if attention == "causal" else window // 2
    return dataclasses.replace(
        GEMMA3_270M,
        vocab_size=text["vocab_size"],
        d_model=text["hidden_size"],
        d_ff=text["intermediate_size"],
        layer_groups=groups,
        local_per_group=local_per_group,
        last_locals=last_locals,
        local_attention=dataclasses.replace(spec, rope_theta=_read_theta(text, path, LOCAL), window=reach),
        global_attention=spec,
        attention=attention,
    )


def _read_groups(text: dict[str, Any], path: pathlib.Path) -> tuple[int, int, int]:
    """(whole groups, local layers of each, local layers after the last)."""
    count = text["num_hidden_layers"]
    pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern") or GROUP
    layer_types = text.get("layer_types") or [GLOBAL if (i + 1) % pattern == 0 else LOCAL for i in range(count)]
    if GLOBAL not in layer_types:
        raise HubError(
            f"{path}: layer_types: no full attention layer, which a Gemma 3 has after every few sliding ones"
        )
    n = layer_types.index(GLOBAL) + 1
    groups, last = divmod(len(layer_types), n)
    if layer_types != [*[*[LOCAL] * (n - 1), GLOBAL] * groups, *[LOCAL] * last] or len(layer_types) != count:
        raise HubError(f"{path}: layer_types: not {count} layers in groups of {n - 1} sliding ones and a full one")
    return groups, n - 1, last


def _read_theta(text: dict[str, Any], path: pathlib.Path, layer_type: str) -> float:
    rope = (text.get("rope_parameters") or {}).get(layer_type, {})
    scaling = rope.get("rope_type", "default")
    if layer_type == GLOBAL and text.get("rope_scaling"):
        scaling = text["rope_scaling"].get("rope_type", "a scaled one")
    if scaling != "default":
        raise HubError(f"{path}: rope_type {scaling!r} of {layer_type}; only default is implemented")
    return rope.get("rope_theta") or text.get(EARLIER_THETA[layer_type]) or THETA[layer_type]


def make_gemma3_json(arch: Architecture) -> dict[str, Any]:
    """The config.json of the Gemma3TextModel that computes the text part of `arch`. Raises HubError where none does."""
    local, full = arch.local_attention, arch.global_attention
    same_heads = dataclasses.replace(local, rope_theta=full.rope_theta, window=0) == full
    if not same_heads or full.value_norm or full.key_is_value or full.partial_rotary_factor != 1.0:
        raise HubError("Gemma3TextModel has heads of one kind in all layers, without value norm or partial rotation")
    if arch.per_layer_dim or arch.shared_kv_groups or arch.vision or arch.audio:
        raise HubError("Gemma3TextModel has no per-layer embeddings, shared keys or towers")
    causal = arch.attention == "causal"
    return {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3TextModel"],
        "vocab_size": arch.vocab_size,
        "hidden_size": arch.d_model,
        "intermediate_size": arch.d_ff,
        "num_hidden_layers": arch.num_layers,
        "layer_types": [*[*[LOCAL] * arch.local_per_group, GLOBAL] * arch.layer_groups, *[LOCAL] * arch.last_locals],
        "num_attention_heads": full.num_heads,
        "num_key_value_heads": full.num_kv_heads,
        "head_dim": full.head_dim,
        "query_pre_attn_scalar": round(full.score_scale**-2),
        "sliding_window": local.window + 1 if causal else 2 * local.window,
        "use_bidirectional_attention": not causal,
        "rope_parameters": {
            layer_type: {"rope_type": "default", "rope_theta": spec.rope_theta}
            for layer_type, spec in ((LOCAL, local), (GLOBAL, full))
        },
        "rms_norm_eps": EPSILON,
    }
