"""Architecture -> config.json; the way back is embed/hf/config.py."""

from typing import Any

from embed.hf.config import is_embedder
from embed.hf.fields import EPSILON, GLOBAL, LOCAL, HubError
from embed.hf.gemma3 import is_gemma3, make_gemma3_json
from embed.model.config import Architecture, AttentionSpec


def make_config_json(arch: Architecture, tokens: dict[str, int]) -> dict[str, Any]:
    """The config.json of a model that transformers builds as `arch`; `tokens` are the ids of <|image|> and such.

    Raises HubError for an architecture that no class of transformers has.
    """
    if arch.encoder != Architecture.encoder:
        raise HubError(f"the encoder {arch.encoder} cannot be exported: transformers has no class that computes it")
    if is_gemma3(arch):
        return make_gemma3_json(arch)
    embedder = is_embedder(arch)
    if arch.last_locals or not arch.global_attention.value_norm or arch.global_attention.score_scale != 1:
        raise HubError("no class of Gemma 4 has an incomplete last group, values without a norm or scaled scores")
    if embedder and arch.attention == "causal":
        raise HubError("causal attention cannot be exported: EmbeddingGemma2Model is bidirectional")
    unified = not arch.per_layer_dim and arch.vision is None and arch.audio is None
    towers = [
        bool(arch.media.patch_size) == (arch.vision is not None),
        bool(arch.media.audio_frame_size) == (arch.audio is not None),
    ]
    plain = not arch.shared_kv_groups and not arch.global_attention.key_is_value
    if (embedder and not plain) or not (unified or all(towers)):
        raise HubError("no class of transformers has this mixture of per-layer embeddings, towers and shared keys")
    name = "embedding_gemma2" if embedder else "gemma4_unified" if unified else "gemma4"
    config: dict[str, Any] = {
        "model_type": name,
        "architectures": [
            {"embedding_gemma2": "EmbeddingGemma2Model", "gemma4": "Gemma4Model"}.get(name, "Gemma4UnifiedModel")
        ],
        "text_config": _text_json(arch, name),
        "vision_config": _vision_json(arch),
        "audio_config": _audio_json(arch),
        **tokens,
    }
    return config


def _text_json(arch: Architecture, name: str) -> dict[str, Any]:
    local, full = arch.local_attention, arch.global_attention
    layer_types = [*[LOCAL] * arch.local_per_group, GLOBAL] * arch.layer_groups
    overrides = {"head_dim": full.head_dim, "num_key_value_heads": full.num_kv_heads}
    text = {
        "model_type": f"{name}_text",
        "vocab_size": arch.vocab_size,
        "hidden_size": arch.d_model,
        "intermediate_size": arch.d_ff,
        "num_hidden_layers": arch.num_layers,
        "layer_types": layer_types,
        "num_attention_heads": local.num_heads,
        "num_key_value_heads": local.num_kv_heads,
        "head_dim": local.head_dim,
        "per_layer_config": {
            str(layer): overrides for layer, layer_type in enumerate(layer_types) if layer_type == GLOBAL
        },
        "rope_parameters": {LOCAL: _rope(local), GLOBAL: _rope(full)},
        "rms_norm_eps": EPSILON,
    }
    if is_embedder(arch):
        more = {"sliding_window": local.window, "embedding_dim": arch.embed_dim}
        return text | more | {"hidden_size_per_layer_input": arch.per_layer_dim}
    return text | {
        # See _text: transformers counts the token itself, or adds one to half of the window.
        "sliding_window": local.window + 1 if arch.attention == "causal" else 2 * (local.window - 1),
        "use_bidirectional_attention": None if arch.attention == "causal" else "all",
        "attention_k_eq_v": full.key_is_value,
        "num_kv_shared_layers": arch.shared_kv_groups * (arch.local_per_group + 1),
        "use_double_wide_mlp": arch.shared_d_ff > arch.d_ff,
        "hidden_size_per_layer_input": arch.per_layer_dim,
        "vocab_size_per_layer_input": arch.per_layer_vocab_size or arch.vocab_size,
    }


def _rope(spec: AttentionSpec) -> dict[str, Any]:
    if spec.partial_rotary_factor == 1.0:
        return {"rope_type": "default", "rope_theta": spec.rope_theta}
    return {
        "rope_type": "proportional",
        "rope_theta": spec.rope_theta,
        "partial_rotary_factor": spec.partial_rotary_factor,
    }


def _vision_json(arch: Architecture) -> dict[str, Any] | None:
    tower, patch = arch.vision, arch.media.patch_size
    if not patch:
        return None
    if tower is None:
        pool = 3 if patch % 3 == 0 else 1
        widths = {
            "mm_embed_dim": arch.d_model,
            "output_proj_dims": arch.d_model,
            "mm_posemb_size": arch.media.max_patches_per_side,
        }
        return {
            "model_type": "gemma4_unified_vision",
            "patch_size": patch // pool,
            "pooling_kernel_size": pool,
        } | widths
    return {
        "model_type": "gemma4_vision",
        "hidden_size": tower.d_model,
        "intermediate_size": tower.d_ff,
        "num_hidden_layers": tower.num_layers,
        "num_attention_heads": tower.attention.num_heads,
        "num_key_value_heads": tower.attention.num_kv_heads,
        "head_dim": tower.attention.head_dim,
        "rope_parameters": {"rope_type": "axial", "rope_theta": tower.attention.rope_theta},
        "patch_size": patch // tower.pool_size,
        "pooling_kernel_size": tower.pool_size,
        "position_embedding_size": tower.num_positions,
        "use_clipped_linears": tower.clipped,
        "standardize": tower.standardized,
    }


def _audio_json(arch: Architecture) -> dict[str, Any] | None:
    tower, frame = arch.audio, arch.media.audio_frame_size
    if not frame:
        return None
    if tower is None:
        return {"model_type": "gemma4_unified_audio", "audio_embed_dim": frame}
    return {
        "model_type": "gemma4_audio",
        "hidden_size": tower.d_model,
        "num_hidden_layers": tower.num_layers,
        "num_attention_heads": tower.num_heads,
        "subsampling_conv_channels": list(tower.conv_channels),
        "conv_kernel_size": tower.conv_kernel,
        "residual_weight": tower.ffn_residual_weight,
        "attention_chunk_size": tower.chunk_size,
        "attention_context_left": tower.left_context,
        "attention_context_right": tower.right_context,
        "attention_logit_cap": tower.logit_cap,
        "gradient_clipping": tower.activation_clip,
        "use_clipped_linears": tower.clipped,
        "output_proj_dims": tower.output_dim,
    }
