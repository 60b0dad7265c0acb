"""An architecture as data: every difference between models is a field here, never a branch on a model's name."""

import dataclasses
import types
import typing
from typing import Any

from embed.batch import MediaFormat


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """One kind of attention layer."""

    num_heads: int  # h, query heads
    num_kv_heads: int  # g, key/value heads
    head_dim: int  # k
    rope_theta: float  # rotary base
    window: int = 0  # tokens a token attends to on each visible side; 0 = all of its segment
    partial_rotary_factor: float = 1.0  # share of the frequencies that rotate
    key_is_value: bool = False  # values are the keys before their norm
    value_norm: bool = True  # values are normalized, without a learned scale
    score_scale: float = 1.0  # attention scores are multiplied by this


@dataclasses.dataclass(frozen=True)
class VisionTower:
    """The Gemma 4 vision transformer: attention between small patches, squares of which are averaged to soft tokens."""

    d_model: int
    d_ff: int
    num_layers: int
    attention: AttentionSpec  # rotary by column in the first half of a head, by row in the second
    pool_size: int  # a soft token is the mean of pool_size x pool_size small patches
    num_positions: int  # rows of the position embedding
    clipped: bool  # linear maps clip their inputs and outputs
    standardized: bool  # constants shift and scale the soft tokens


@dataclasses.dataclass(frozen=True)
class AudioTower:
    """The Gemma 4 conformer over mel frames, four per soft token."""

    d_model: int
    num_layers: int
    num_heads: int
    conv_channels: tuple[int, int]  # of the two convolutions of stride 2 over time and mel bins
    conv_kernel: int  # of the causal convolution inside a layer
    chunk_size: int  # queries per attention block
    left_context: int  # a query attends to itself and the left_context - 2 frames before it
    right_context: int  # and to the frames less than this far after it
    logit_cap: float  # attention scores are cap * tanh(score / cap)
    ffn_residual_weight: float  # weight of a feed-forward's output
    activation_clip: float  # activations are clipped to +- this between sublayers
    output_dim: int  # width of the tower's output
    clipped: bool


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A Gemma encoder: groups of `local_per_group` local layers and one global layer, then `last_locals` local ones."""

    vocab_size: int  # v
    d_model: int  # d
    d_ff: int  # f, of the gated feed-forward
    layer_groups: int  # of local_per_group local layers and one global layer each
    local_per_group: int
    local_attention: AttentionSpec
    global_attention: AttentionSpec
    media: MediaFormat
    matryoshka_dims: tuple[int, ...]  # ascending; the last is e
    last_locals: int = 0  # local layers after the last whole group
    layer_scalar: bool = True  # a learned scalar multiplies the output of each layer
    per_layer_dim: int = 0  # p, of per-layer embeddings; 0 = none
    per_layer_vocab_size: int = 0  # rows of their token table; 0 = projection of the embedded input alone
    shared_kv_groups: int = 0  # this many last groups use the keys and values of the group before them
    shared_d_ff: int = 0  # f in those groups
    vision: VisionTower | None = None  # None = a linear map of patches
    audio: AudioTower | None = None  # None = a linear map of frames
    encoder: str = "embed.model.encoder:Encoder"  # import path of the class, see build.py
    pooling: str = "mean"  # NAME of a function NAME_pool in pooling.py
    attention: str = "bidirectional"  # or "causal": a function in attention.py

    def __post_init__(self) -> None:
        if self.last_locals and self.shared_kv_groups:
            raise ValueError("last_locals after groups that share keys and values: no model has both")

    @property
    def num_layers(self) -> int:
        return self.layer_groups * (self.local_per_group + 1) + self.last_locals

    @property
    def embed_dim(self) -> int:
        return self.matryoshka_dims[-1]


def from_json(hint: Any, value: Any) -> Any:
    """Plain JSON as the type `hint` says: a dataclass, a tuple, None, a number or a string.

    A field that is missing takes its default: it is newer than the JSON. Raises ValueError where a field is unknown, or
    missing without a default.
    """
    if isinstance(hint, types.UnionType):  # X | None
        (hint,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
        return None if value is None else from_json(hint, value)
    if typing.get_origin(hint) is tuple:
        return tuple(from_json(typing.get_args(hint)[0], item) for item in value)
    if not isinstance(hint, type) or not dataclasses.is_dataclass(hint):
        return value
    hints = typing.get_type_hints(hint)
    if not isinstance(value, dict):
        raise ValueError(f"{hint.__name__} is {value!r}, not an object of fields")
    required = {field.name for field in dataclasses.fields(hint) if field.default is dataclasses.MISSING}
    if wrong := (value.keys() - hints.keys()) | (required - value.keys()):
        raise ValueError(f"{hint.__name__} differs in {', '.join(sorted(wrong))}")
    return hint(**{name: from_json(hints[name], item) for name, item in value.items()})
