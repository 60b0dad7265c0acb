"""Architectures as data: every difference between models is a number here, never a branch on a name."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """One kind of attention layer."""

    heads: int  # h, query heads
    groups: int  # g, key/value heads
    head_dim: int  # k
    theta: float  # rotary base
    window: int = 0  # symmetric radius: |i - j| <= window; 0 = the whole segment
    rotary: float = 1.0  # share of the frequencies that rotate; the rest stay still


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
    per_layer: int  # width of projection-only per-layer embeddings; 0 = none
    patch: int  # side of an image patch in pixels; c = 3 * patch * patch
    image_patches: int  # soft tokens of an image or page, unless a task or a caller gives another budget
    frame_patches: int  # soft tokens of a video frame
    patch_positions: int  # rows of the factorised 2-D position table
    audio_frame: int  # samples of one raw audio frame
    widths: tuple[int, ...]  # Matryoshka widths, ascending; the last is e

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
    per_layer=0,
    patch=8,
    image_patches=16,
    frame_patches=16,
    patch_positions=64,
    audio_frame=640,
    widths=(32, 64, 128),
)

# Per-layer embeddings, three groups and a partial rotary: the features that TINY leaves off, for tests.
TINY_PER_LAYER = dataclasses.replace(
    TINY,
    groups=3,
    per_layer=16,
    global_attention=AttentionSpec(heads=4, groups=1, head_dim=64, theta=1e6, rotary=0.25),
)

# The trunk of EmbeddingGemma 2 (24 layers, 512 wide, 262k vocabulary) behind encoder-free inputs.
BASE = Architecture(
    vocabulary=262_144,
    width=512,
    hidden=2048,
    groups=4,
    locals=5,
    local_attention=AttentionSpec(heads=4, groups=2, head_dim=256, theta=1e4, window=512),
    global_attention=AttentionSpec(heads=4, groups=1, head_dim=512, theta=1e6),
    per_layer=512,
    patch=48,
    image_patches=280,
    frame_patches=140,
    patch_positions=1120,
    audio_frame=640,
    widths=(128, 256, 512, 768),
)

PRESETS = {"tiny": TINY, "tiny_per_layer": TINY_PER_LAYER, "base": BASE}
