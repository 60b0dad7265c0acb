"""Architectures as data: every difference between models is a number here, never a branch on a name.

Sizes of the published models: the Gemma 4 model card, transformers' configurations of `gemma4`, `gemma4_unified` and
`embedding_gemma2`, and its conversion scripts.
"""

import dataclasses

from embed.batch import MediaFormat


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """One kind of attention layer."""

    heads: int  # h, query heads
    groups: int  # g, key/value heads
    head_dim: int  # k
    theta: float  # rotary base
    window: int = 0  # symmetric radius: |i - j| <= window; 0 = the whole segment
    rotary: float = 1.0  # share of the frequencies that rotate; the rest stay still
    key_is_value: bool = False  # values are the keys before their norm


@dataclasses.dataclass(frozen=True)
class VisionTower:
    """The Gemma 4 vision transformer: small patches see each other, squares of them are averaged to soft tokens."""

    width: int
    hidden: int
    layers: int
    attention: AttentionSpec  # rotary by column in the first half of a head, by row in the second
    pool: int  # a soft token's patch is pool x pool small ones
    positions: int  # rows of the position table
    clipped: bool  # linear maps clip what goes in and out
    standardized: bool  # soft tokens are shifted and scaled by constants


@dataclasses.dataclass(frozen=True)
class AudioTower:
    """The Gemma 4 conformer over mel frames, four of them a soft token."""

    width: int
    layers: int
    heads: int
    channels: tuple[int, int]  # of the two convolutions that halve time and mel bins
    kernel: int  # of the causal convolution inside a layer
    chunk: int  # queries of an attention block
    left: int  # a query sees itself and left - 2 frames before; the block reaches one further
    right: int  # and fewer than this many after
    cap: float  # attention scores are cap * tanh(score / cap)
    residual: float  # weight of a feed-forward's output
    bound: float  # activations are clipped to +-bound between sublayers
    out: int  # width of what the tower gives
    clipped: bool


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A bidirectional Gemma-4-family encoder: groups of `locals` local layers and one global layer."""

    vocabulary: int  # v
    width: int  # d
    hidden: int  # f, of the gated feed-forward
    groups: int  # layers = groups * (locals + 1)
    locals: int
    local_attention: AttentionSpec
    global_attention: AttentionSpec
    media: MediaFormat
    widths: tuple[int, ...]  # Matryoshka widths, ascending; the last is e
    per_layer: int = 0  # width of per-layer embeddings; 0 = none
    per_layer_vocabulary: int = 0  # rows of their token table; 0 = projected from the embedded input alone
    shared_groups: int = 0  # the last groups use the keys and values of the last group before them
    shared_hidden: int = 0  # f in these
    vision: VisionTower | None = None  # None = patches enter by one linear map
    audio: AudioTower | None = None  # None = frames enter by one linear map

    @property
    def layers(self) -> int:
        return self.groups * (self.locals + 1)

    @property
    def embedding(self) -> int:
        return self.widths[-1]


TINY = Architecture(
    vocabulary=4096,
    width=128,
    hidden=256,
    groups=2,
    locals=1,
    local_attention=AttentionSpec(heads=4, groups=2, head_dim=32, theta=1e4, window=32),
    global_attention=AttentionSpec(heads=4, groups=1, head_dim=64, theta=1e6),
    media=MediaFormat(
        patch_size=8,
        max_patches_per_side=64,
        image_patches=16,
        frame_patches=16,
        timestamps=False,
        audio_frame_size=640,
    ),
    widths=(32, 64, 128),
)

VISION = VisionTower(
    width=768,
    hidden=3072,
    layers=16,
    attention=AttentionSpec(heads=12, groups=12, head_dim=64, theta=100.0),
    pool=3,
    positions=10_240,
    clipped=True,
    standardized=False,
)
AUDIO = AudioTower(
    width=1024,
    layers=12,
    heads=8,
    channels=(128, 32),
    kernel=5,
    chunk=12,
    left=13,
    right=0,
    cap=50.0,
    residual=0.5,
    bound=1e10,
    out=1536,
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
    vocabulary=262_144,
    width=512,
    hidden=2048,
    groups=4,
    locals=5,
    local_attention=AttentionSpec(heads=4, groups=2, head_dim=256, theta=1e4, window=512),
    global_attention=AttentionSpec(heads=4, groups=1, head_dim=512, theta=1e6),
    media=dataclasses.replace(TOWERS, frame_patches=140, timestamps=False),
    widths=(128, 256, 512, 768),
    per_layer=512,
    vision=dataclasses.replace(VISION, clipped=False),
    audio=AUDIO,
)

GEMMA4_E2B = Architecture(
    vocabulary=262_144,
    width=1536,
    hidden=6144,
    groups=7,
    locals=4,
    local_attention=AttentionSpec(heads=8, groups=1, head_dim=256, theta=1e4, window=256),
    global_attention=AttentionSpec(heads=8, groups=1, head_dim=512, theta=1e6, rotary=0.25),
    media=TOWERS,
    widths=(768, 1536, 3072),
    per_layer=256,
    per_layer_vocabulary=262_144,
    shared_groups=4,
    shared_hidden=12_288,
    vision=VISION,
    audio=AUDIO,
)

GEMMA4_E4B = dataclasses.replace(
    GEMMA4_E2B,
    width=2560,
    hidden=10_240,
    locals=5,
    local_attention=AttentionSpec(heads=8, groups=2, head_dim=256, theta=1e4, window=256),
    global_attention=AttentionSpec(heads=8, groups=2, head_dim=512, theta=1e6, rotary=0.25),
    shared_groups=3,
    shared_hidden=10_240,
)

GEMMA4_12B = Architecture(
    vocabulary=262_144,
    width=3840,
    hidden=15_360,
    groups=8,
    locals=5,
    local_attention=AttentionSpec(heads=16, groups=8, head_dim=256, theta=1e4, window=512),
    global_attention=AttentionSpec(heads=16, groups=1, head_dim=512, theta=1e6, rotary=0.25, key_is_value=True),
    media=dataclasses.replace(TOWERS, max_patches_per_side=1120, mel_bins=0, clip_tokens=4500),
    widths=(768, 1536, 3072),
)


def tiny(arch: Architecture) -> Architecture:
    """The same shape, small enough for a CPU: every feature kept, every size cut."""

    def attention(spec: AttentionSpec, head_dim: int) -> AttentionSpec:
        heads = 4
        return dataclasses.replace(
            spec, heads=heads, groups=max(heads * spec.groups // spec.heads, 1), head_dim=head_dim
        )

    vision, audio, media = arch.vision, arch.audio, arch.media
    if vision is not None:
        small = dataclasses.replace(vision.attention, heads=2, groups=2, head_dim=16)
        vision = dataclasses.replace(vision, width=32, hidden=64, layers=2, attention=small, pool=2, positions=128)
    if audio is not None:
        audio = dataclasses.replace(audio, width=32, layers=2, heads=2, channels=(16, 8), out=48)
        media = dataclasses.replace(media, mel_bins=16)
    return dataclasses.replace(
        arch,
        vocabulary=TINY.vocabulary,
        width=64,
        hidden=128,
        groups=3 if arch.shared_groups else 2,
        locals=2,
        local_attention=dataclasses.replace(attention(arch.local_attention, 16), window=32),
        global_attention=attention(arch.global_attention, 32),
        media=dataclasses.replace(media, patch_size=8, max_patches_per_side=64, image_patches=70, frame_patches=70),
        widths=TINY.widths,
        per_layer=min(arch.per_layer, 16),
        per_layer_vocabulary=min(arch.per_layer_vocabulary, TINY.vocabulary),
        shared_groups=min(arch.shared_groups, 1),
        shared_hidden=128 * arch.shared_hidden // arch.hidden,
        vision=vision,
        audio=audio,
    )


PUBLISHED = {
    "embeddinggemma2": EMBEDDINGGEMMA2,
    "gemma4_e2b": GEMMA4_E2B,
    "gemma4_e4b": GEMMA4_E4B,
    "gemma4_12b": GEMMA4_12B,
}
PRESETS = {"tiny": TINY, **PUBLISHED, **{f"tiny_{name}": tiny(arch) for name, arch in PUBLISHED.items()}}
