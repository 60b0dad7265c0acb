"""Random small models of the transformers library, and what they make of our inputs."""

import random

import jax
import numpy as np
import torch
from transformers import (
    EmbeddingGemma2Config,
    EmbeddingGemma2Model,
    Gemma4Config,
    Gemma4Model,
    Gemma4UnifiedConfig,
    Gemma4UnifiedModel,
)

from embed.batch import Inputs
from embed.data.budget import Budget
from embed.data.pieces import AudioPiece, ImagePiece, TextPiece

VOCABULARY = 512
KINDS = ("embeddinggemma2", "gemma4_e2b", "gemma4_e4b", "gemma4_12b")


def random_config(kind: str, seed: int, tokenizer, vocabulary: int = VOCABULARY, causal: bool = False):
    """A configuration of random widths, layers, heads, windows, groups; sometimes without a tower."""
    rng = random.Random(f"{kind} {seed}")
    n, groups = rng.choice([2, 3, 4]), rng.choice([2, 3])
    shared = rng.choice([1, groups - 1]) if kind in ("gemma4_e2b", "gemma4_e4b") else 0
    heads = rng.choice([2, 4])
    rope = {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": rng.choice([0.25, 0.5])}
    if kind == "embeddinggemma2" and seed % 3:
        rope = {"rope_type": "default", "rope_theta": 1e6}
    text = dict(
        vocab_size=vocabulary,
        hidden_size=(width := rng.choice([32, 48, 64])),
        intermediate_size=rng.choice([48, 96]),
        num_hidden_layers=n * groups,
        layer_types=[*["sliding_attention"] * (n - 1), "full_attention"] * groups,
        num_attention_heads=heads,
        num_key_value_heads=rng.choice([1, 2]),
        head_dim=rng.choice([8, 16]),
        global_head_dim=rng.choice([16, 32]),
        num_global_key_value_heads=rng.choice([1, 2]),
        sliding_window=rng.choice([2, 5, 8, 14]),
        rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": rope},
    )
    tokens = dict(
        image_token_id=tokenizer.image[1], video_token_id=tokenizer.video[1], audio_token_id=tokenizer.audio[1]
    )
    pool, size = rng.choice([2, 3]), rng.choice([4, 6])
    without = rng.choice([None, None, None, "vision_config", "audio_config"])
    if kind == "gemma4_12b":
        text |= dict(use_bidirectional_attention=None if causal else "all", attention_k_eq_v=True)
        vision = dict(patch_size=size, pooling_kernel_size=pool, mm_posemb_size=16)
        vision |= dict(mm_embed_dim=width, output_proj_dims=width)
        parts = dict(vision_config=vision, audio_config=dict(audio_embed_dim=rng.choice([40, 64])))
        return Gemma4UnifiedConfig(text_config=text, **(parts | ({without: None} if without else {})), **tokens)
    text["hidden_size_per_layer_input"] = rng.choice([8, 16])
    vision_heads = rng.choice([1, 2])
    vision = dict(
        model_type="gemma4_vision",
        hidden_size=rng.choice([24, 32]),
        intermediate_size=rng.choice([32, 48]),
        num_hidden_layers=rng.choice([1, 2, 3]),
        num_attention_heads=2,
        num_key_value_heads=vision_heads,
        head_dim=rng.choice([8, 16]),
        patch_size=size,
        pooling_kernel_size=pool,
        position_embedding_size=rng.choice([40, 64]),
        use_clipped_linears=rng.random() < 0.6,
        standardize=rng.random() < 0.4,
    )
    bins = rng.choice([8, 16])
    audio = dict(
        model_type="gemma4_audio",
        hidden_size=rng.choice([16, 32]),
        num_hidden_layers=rng.choice([1, 2, 3]),
        num_attention_heads=rng.choice([2, 4]),
        subsampling_conv_channels=[bins, rng.choice([4, 8])],
        conv_kernel_size=rng.choice([3, 5]),
        attention_chunk_size=rng.choice([3, 4, 6]),
        attention_context_left=rng.choice([3, 5, 7]),
        attention_context_right=rng.choice([0, 0, 2]),
        attention_logit_cap=rng.choice([5.0, 50.0]),
        residual_weight=rng.choice([0.5, 1.0]),
        output_proj_dims=rng.choice([24, 40]),
        use_clipped_linears=rng.random() < 0.6,
    )
    parts = dict(vision_config=vision, audio_config=audio) | ({without: None} if without else {})
    if kind == "embeddinggemma2":
        text["embedding_dim"] = rng.choice([24, 40])
        return EmbeddingGemma2Config(text_config=text, **parts, **tokens)
    text |= dict(
        use_bidirectional_attention=None if causal else "all",
        num_kv_shared_layers=n * shared,
        use_double_wide_mlp=kind == "gemma4_e2b",
        vocab_size_per_layer_input=vocabulary,
    )
    return Gemma4Config(text_config=text, **parts, **tokens)


def written(
    folder, kind: str, seed: int, tokenizer, dtype=torch.float32, vocabulary: int = VOCABULARY, causal: bool = False
):
    """A model with random weights, norms, scalars and clipping bounds included, saved in shards."""
    config = random_config(kind, seed, tokenizer, vocabulary, causal)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    cls = {"embeddinggemma2": EmbeddingGemma2Model, "gemma4_12b": Gemma4UnifiedModel}.get(kind, Gemma4Model)
    model = cls(config).eval()
    spread = random.Random(seed).choice([0.05, 0.15])
    with torch.no_grad():
        for name, leaf in model.state_dict().items():
            noise = torch.randn_like(leaf.float())
            if name.endswith(("_min", "_max")):  # somewhere within what occurs, so that something is clipped
                leaf.copy_((1.5 + noise.abs()) * (-1 if name.endswith("_min") else 1))
            elif "q_norm" in name or "k_norm" in name:  # sharp attention would blow rounding up from layer to layer
                leaf.copy_(0.5 + 0.1 * noise)
            elif "norm" in name or "ln" in name.split(".")[-2] or "scal" in name:
                leaf.copy_((0 if name.endswith("bias") else 1) + 0.3 * noise)
            else:
                leaf.copy_(spread * noise)
    model.to(dtype).save_pretrained(folder, max_shard_size="100KB")
    return model


def random_pieces(order: str, media, tokenizer, rng: np.random.Generator, vocabulary: int = VOCABULARY) -> list:
    """Words (w), pictures (p), video frames (v) and sounds (s) of random sizes and content in the given order."""

    def picture(around) -> ImagePiece:
        rows, columns = rng.integers(1, 4, 2)
        xy = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2).astype(np.int32)
        return ImagePiece(rng.integers(0, 256, (len(xy), 3 * media.patch_size**2)).astype(np.uint8), xy, around)

    made = {
        "w": lambda: TextPiece(tuple(rng.integers(20, vocabulary, rng.integers(1, 9)).tolist())),
        "p": lambda: picture(tokenizer.image),
        "v": lambda: picture(tokenizer.video),
        "s": lambda: AudioPiece(rng.standard_normal((rng.integers(5, 40), media.audio_shape[1])).astype(np.float32)),
    }
    return [
        made[kind]() for kind in order if media.patch_size or kind not in "pv" if media.audio_frame_size or kind != "s"
    ]


BUDGET = Budget(tokens=96, images=4, patches=9, clips=2, frames=40)


def small_patches(patches: np.ndarray, xy: np.ndarray, pool: int) -> tuple[np.ndarray, np.ndarray]:
    """Our patches [p,c] as the reference has them: pool x pool smaller ones each, row by row of the whole image."""
    side = round((patches.shape[1] / 3) ** 0.5) // pool
    cut = (
        (patches.astype(np.float32) / 255)
        .reshape(len(xy), pool, side, pool, side, 3)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(-1, side * side * 3)
    )
    within = np.stack(np.meshgrid(np.arange(pool), np.arange(pool)), -1).reshape(1, -1, 2)
    where = (pool * xy[:, None] + within).reshape(-1, 2)
    order = np.lexsort((where[:, 0], where[:, 1]))
    return cut[order], where[order]


def apart(rows: Inputs) -> list[Inputs]:
    """Each row by itself, without the row axis."""
    return [jax.tree.map(lambda leaf: leaf[i], rows) for i in range(len(rows.tokens))]  # noqa: B023


def their_inputs(model, row: Inputs, pieces: list, media) -> dict[str, torch.Tensor]:
    """One of our rows as the reference's arguments, without padding."""
    n = int((row.segments > 0).sum())
    inputs: dict = {"input_ids": torch.tensor(row.tokens[None, :n].astype(np.int64))}
    tower = hasattr(model, "vision_tower")
    pool = model.config.vision_config.pooling_kernel_size if media.patch_size and tower else 1
    for names, token in (
        (("pixel_values", "image_position_ids"), model.config.image_token_id),
        (("pixel_values_videos", "video_position_ids"), model.config.video_token_id),
    ):
        cut = [
            small_patches(p.patches, p.xy, pool)
            for p in pieces
            if isinstance(p, ImagePiece) and p.delimiters[1] == token
        ]
        if cut:
            most = 9 * pool**2
            pixels = [np.pad(x, ((0, most - len(x)), (0, 0))) for x, _ in cut]
            places = [np.pad(xy, ((0, most - len(xy)), (0, 0)), constant_values=-1) for _, xy in cut]
            inputs |= dict(zip(names, (torch.tensor(np.stack(v)) for v in (pixels, places)), strict=True))
            if token == model.config.video_token_id:
                inputs["num_frames_per_video"] = torch.tensor([len(cut)])
    sounds = [p.frames for p in pieces if isinstance(p, AudioPiece)]
    if sounds:
        most = max(map(len, sounds)) + 3
        inputs["input_features"] = torch.tensor(np.stack([np.pad(s, ((0, most - len(s)), (0, 0))) for s in sounds]))
        inputs["input_features_mask"] = torch.tensor(np.stack([np.arange(most) < len(s) for s in sounds]))
    return inputs


def their_states(model, inputs: dict) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
    """The mean of the last hidden states f32[d], and what every layer of every part gave: {part: [array, ...]}."""
    seen: dict[str, list] = {"text": [], "vision": [], "audio": []}
    hooks = []
    for part, layers in (
        ("text", model.language_model.layers),
        ("vision", model.vision_tower.encoder.layers if getattr(model, "vision_tower", None) else []),
        ("audio", model.audio_tower.layers if getattr(model, "audio_tower", None) else []),
    ):
        for layer in layers:
            note = lambda _, __, out, part=part: seen[part].append((out[0] if isinstance(out, tuple) else out).clone())  # noqa: E731
            hooks.append(layer.register_forward_hook(note))
    with torch.no_grad():
        last = model(**inputs).last_hidden_state[0]
    for hook in hooks:
        hook.remove()
    arrays = {part: [x.float().numpy() for x in states] for part, states in seen.items()}
    return last.float().mean(0).numpy(), arrays
