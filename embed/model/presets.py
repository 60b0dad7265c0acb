"""The architectures of the published models and of their small versions for CPUs.

Sizes: the Gemma 3 report (arXiv 2503.19786) and the Gemma 4 model card, transformers' configurations of `gemma3`,
`gemma4`, `gemma4_unified` and `embedding_gemma2`, and its conversion scripts.
"""

import dataclasses

from embed.batch import MediaFormat
from embed.model.config import Architecture, AttentionSpec, AudioTower, VisionTower

TINY = Architecture(
    vocab_size=4096,
    d_model=128,
    d_ff=256,
    layer_groups=2,
    local_per_group=1,
    local_attention=AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=32, rope_theta=1e4, window=32),
    global_attention=AttentionSpec(num_heads=4, num_kv_heads=1, head_dim=64, rope_theta=1e6),
    media=MediaFormat(
        patch_size=8,
        max_patches_per_side=64,
        image_patches=16,
        frame_patches=16,
        timestamps=False,
        audio_frame_size=640,
    ),
    matryoshka_dims=(32, 64, 128),
)

VISION = VisionTower(
    d_model=768,
    d_ff=3072,
    num_layers=16,
    attention=AttentionSpec(num_heads=12, num_kv_heads=12, head_dim=64, rope_theta=100.0),
    pool_size=3,
    num_positions=10_240,
    clipped=True,
    standardized=False,
)
AUDIO = AudioTower(
    d_model=1024,
    num_layers=12,
    num_heads=8,
    conv_channels=(128, 32),
    conv_kernel=5,
    chunk_size=12,
    left_context=13,
    right_context=0,
    logit_cap=50.0,
    ffn_residual_weight=0.5,
    activation_clip=1e10,
    output_dim=1536,
    clipped=True,
)
TOWERS = MediaFormat(
    patch_size=48,
    max_patches_per_side=3413,
    image_patches=280,
    frame_patches=70,
    timestamps=True,
    audio_frame_size=640,
    mel_bins=128,
    clip_tokens=750,
)

EMBEDDINGGEMMA2 = Architecture(
    vocab_size=262_144,
    d_model=512,
    d_ff=2048,
    layer_groups=4,
    local_per_group=5,
    local_attention=AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=256, rope_theta=1e4, window=512),
    global_attention=AttentionSpec(num_heads=4, num_kv_heads=1, head_dim=512, rope_theta=1e6),
    media=dataclasses.replace(TOWERS, frame_patches=140, timestamps=False),
    matryoshka_dims=(128, 256, 512, 768),
    per_layer_dim=512,
    vision=dataclasses.replace(VISION, clipped=False),
    audio=AUDIO,
)

GEMMA4_E2B = Architecture(
    vocab_size=262_144,
    d_model=1536,
    d_ff=6144,
    layer_groups=7,
    local_per_group=4,
    local_attention=AttentionSpec(num_heads=8, num_kv_heads=1, head_dim=256, rope_theta=1e4, window=256),
    global_attention=AttentionSpec(
        num_heads=8, num_kv_heads=1, head_dim=512, rope_theta=1e6, partial_rotary_factor=0.25
    ),
    media=TOWERS,
    matryoshka_dims=(768, 1536, 3072),
    per_layer_dim=256,
    per_layer_vocab_size=262_144,
    shared_kv_groups=4,
    shared_d_ff=12_288,
    vision=VISION,
    audio=AUDIO,
)

GEMMA4_E4B = dataclasses.replace(
    GEMMA4_E2B,
    d_model=2560,
    d_ff=10_240,
    local_per_group=5,
    local_attention=AttentionSpec(num_heads=8, num_kv_heads=2, head_dim=256, rope_theta=1e4, window=256),
    global_attention=AttentionSpec(
        num_heads=8, num_kv_heads=2, head_dim=512, rope_theta=1e6, partial_rotary_factor=0.25
    ),
    shared_kv_groups=3,
    shared_d_ff=10_240,
)

GEMMA4_12B = Architecture(
    vocab_size=262_144,
    d_model=3840,
    d_ff=15_360,
    layer_groups=8,
    local_per_group=5,
    local_attention=AttentionSpec(num_heads=16, num_kv_heads=8, head_dim=256, rope_theta=1e4, window=512),
    global_attention=AttentionSpec(
        num_heads=16, num_kv_heads=1, head_dim=512, rope_theta=1e6, partial_rotary_factor=0.25, key_is_value=True
    ),
    media=dataclasses.replace(TOWERS, max_patches_per_side=1120, mel_bins=0, clip_tokens=4500),
    matryoshka_dims=(768, 1536, 3072),
)

# Gemma 3 reads text. Images, video and audio enter by linear maps that training starts from nothing.
GEMMA3_ATTENTION = AttentionSpec(
    num_heads=4, num_kv_heads=1, head_dim=256, rope_theta=1e6, value_norm=False, score_scale=256**-0.5
)
GEMMA3_270M = Architecture(
    vocab_size=262_144,
    d_model=640,
    d_ff=2048,
    layer_groups=3,
    local_per_group=5,
    local_attention=dataclasses.replace(GEMMA3_ATTENTION, rope_theta=1e4, window=256),
    global_attention=GEMMA3_ATTENTION,
    media=MediaFormat(
        patch_size=16,
        max_patches_per_side=64,
        image_patches=64,
        frame_patches=16,
        timestamps=False,
        audio_frame_size=640,
    ),
    matryoshka_dims=(128, 256, 512, 640),
    layer_scalar=False,
)
GEMMA3_1B = dataclasses.replace(
    GEMMA3_270M,
    d_model=1152,
    d_ff=6912,
    layer_groups=4,
    last_locals=2,
    matryoshka_dims=(128, 256, 512, 768, 1152),
)
EMBEDDINGGEMMA = dataclasses.replace(
    GEMMA3_270M,
    d_model=768,
    d_ff=1152,
    layer_groups=4,
    local_attention=dataclasses.replace(GEMMA3_270M.local_attention, num_heads=3),
    global_attention=dataclasses.replace(GEMMA3_ATTENTION, num_heads=3),
    matryoshka_dims=(128, 256, 512, 768),
)


def tiny(arch: Architecture) -> Architecture:
    """The same architecture, small enough for a CPU: every feature, smaller sizes."""

    def attention(spec: AttentionSpec, head_dim: int) -> AttentionSpec:
        heads = 4
        return dataclasses.replace(
            spec, num_heads=heads, num_kv_heads=max(heads * spec.num_kv_heads // spec.num_heads, 1), head_dim=head_dim
        )

    vision, audio, media = arch.vision, arch.audio, arch.media
    if vision is not None:
        small = dataclasses.replace(vision.attention, num_heads=2, num_kv_heads=2, head_dim=16)
        vision = dataclasses.replace(
            vision, d_model=32, d_ff=64, num_layers=2, attention=small, pool_size=2, num_positions=128
        )
    if audio is not None:
        audio = dataclasses.replace(audio, d_model=32, num_layers=2, num_heads=2, conv_channels=(16, 8), output_dim=48)
        media = dataclasses.replace(media, mel_bins=16)
    return dataclasses.replace(
        arch,
        vocab_size=TINY.vocab_size,
        d_model=64,
        d_ff=128,
        layer_groups=3 if arch.shared_kv_groups else 2,
        local_per_group=2,
        last_locals=min(arch.last_locals, 1),
        local_attention=dataclasses.replace(attention(arch.local_attention, 16), window=32),
        global_attention=attention(arch.global_attention, 32),
        media=dataclasses.replace(media, patch_size=8, max_patches_per_side=64, image_patches=70, frame_patches=70),
        matryoshka_dims=TINY.matryoshka_dims,
        per_layer_dim=min(arch.per_layer_dim, 16),
        per_layer_vocab_size=min(arch.per_layer_vocab_size, TINY.vocab_size),
        shared_kv_groups=min(arch.shared_kv_groups, 1),
        shared_d_ff=128 * arch.shared_d_ff // arch.d_ff,
        vision=vision,
        audio=audio,
    )


PUBLISHED = {
    "gemma3_270m": GEMMA3_270M,
    "gemma3_1b": GEMMA3_1B,
    "embeddinggemma": EMBEDDINGGEMMA,
    "embeddinggemma2": EMBEDDINGGEMMA2,
    "gemma4_e2b": GEMMA4_E2B,
    "gemma4_e4b": GEMMA4_E4B,
    "gemma4_12b": GEMMA4_12B,
}
PRESETS = {"tiny": TINY, **PUBLISHED, **{f"tiny_{name}": tiny(arch) for name, arch in PUBLISHED.items()}}
