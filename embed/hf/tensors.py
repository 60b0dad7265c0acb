"""The tensor of a published model that each parameter is: our leaf, its name there, and how its axes become ours.

Import reads the tables one way, export the other way. Names are those of the multimodal classes of transformers
(`Gemma4Model`, `Gemma4UnifiedModel`, `EmbeddingGemma2Model`).
"""

import dataclasses

import numpy as np

from embed.hf.gemma3 import NORM_OFFSET, is_gemma3
from embed.model.config import Architecture
from embed.model.params import Path

Table = dict[Path, tuple[str, str]]
BOUNDS = ("input_min", "input_max", "output_min", "output_max")
DENSE = "2_Dense.linear.weight"  # the projection, where the model's class has none: a module of its own
TEXT_PART = "language_model."  # of a multimodal class
MEDIA = "media."  # before tensors of ours that the model's class has not, in media/model.safetensors

TEXT: Table = {
    ("vocabulary",): ("language_model.embed_tokens.weight", "v d -> v d"),
    ("backbone", "final_norm", "scale"): ("language_model.norm.weight", "d -> d"),
    ("backbone", "per_layer", "table"): ("language_model.embed_tokens_per_layer.weight", "v (n p) -> v n p"),
    ("backbone", "per_layer", "norm", "scale"): ("language_model.{ple}per_layer_projection_norm.weight", "p -> p"),
    ("backbone", "per_layer", "project", "weight"): (
        "language_model.{ple}per_layer_model_projection.weight",
        "(n p) d -> d n p",
    ),
}
TRANSFORMER_BLOCK: Table = {
    ("attention", "query", "weight"): ("self_attn.q_proj{linear}.weight", "(h k) d -> d h k"),
    ("attention", "key", "weight"): ("self_attn.k_proj{linear}.weight", "(h k) d -> d h k"),
    ("attention", "value", "weight"): ("self_attn.v_proj{linear}.weight", "(h k) d -> d h k"),
    ("attention", "out", "weight"): ("self_attn.o_proj{linear}.weight", "d (h k) -> h k d"),
    ("attention", "query_norm", "scale"): ("self_attn.q_norm.weight", "k -> k"),
    ("attention", "key_norm", "scale"): ("self_attn.k_norm.weight", "k -> k"),
    ("attention_pre", "scale"): ("input_layernorm.weight", "d -> d"),
    ("attention_post", "scale"): ("post_attention_layernorm.weight", "d -> d"),
    ("mlp_pre", "scale"): ("pre_feedforward_layernorm.weight", "d -> d"),
    ("mlp_post", "scale"): ("post_feedforward_layernorm.weight", "d -> d"),
    ("mlp", "gate", "weight"): ("mlp.gate_proj{linear}.weight", "f d -> d f"),
    ("mlp", "up", "weight"): ("mlp.up_proj{linear}.weight", "f d -> d f"),
    ("mlp", "down", "weight"): ("mlp.down_proj{linear}.weight", "d f -> f d"),
}
LAYER: Table = {
    **TRANSFORMER_BLOCK,
    ("per_layer_gate", "weight"): ("{block}per_layer_input_gate.weight", "p d -> d p"),
    ("per_layer_out", "weight"): ("{block}per_layer_projection.weight", "d p -> p d"),
    ("per_layer_post", "scale"): ("{block}post_per_layer_input_norm.weight", "d -> d"),
    ("scalar",): ("layer_scalar", "1 ->"),
}
VISION_TOWER: Table = {
    ("vision", "embed", "weight"): ("vision_tower.patch_embedder.input_proj.weight", "w c -> c w"),
    ("vision", "position"): ("vision_tower.patch_embedder.position_embedding_table", "a p w -> p a w"),
    ("vision", "shift"): ("vision_tower.std_bias", "w -> w"),
    ("vision", "stretch"): ("vision_tower.std_scale", "w -> w"),
    ("vision", "project", "weight"): ("embed_vision.embedding_projection.weight", "d w -> w d"),
}
PATCHES: Table = {
    ("vision", "patch_norm", "scale"): ("vision_embedder.patch_ln1.weight", "c -> c"),
    ("vision", "patch_norm", "bias"): ("vision_embedder.patch_ln1.bias", "c -> c"),
    ("vision", "embed", "weight"): ("vision_embedder.patch_dense.weight", "d c -> c d"),
    ("vision", "bias"): ("vision_embedder.patch_dense.bias", "d -> d"),
    ("vision", "embed_norm", "scale"): ("vision_embedder.patch_ln2.weight", "d -> d"),
    ("vision", "embed_norm", "bias"): ("vision_embedder.patch_ln2.bias", "d -> d"),
    ("vision", "position"): ("vision_embedder.pos_embedding", "p a d -> p a d"),
    ("vision", "position_norm", "scale"): ("vision_embedder.pos_norm.weight", "d -> d"),
    ("vision", "position_norm", "bias"): ("vision_embedder.pos_norm.bias", "d -> d"),
    ("vision", "project", "weight"): ("embed_vision.embedding_projection.weight", "e d -> d e"),
}
AUDIO_TOWER: Table = {
    **{
        ("audio", f"subsample_{i}", *leaf): (f"audio_tower.subsample_conv_projection.layer{i}.{name}", axes)
        for i in range(2)
        for leaf, name, axes in (
            (("convolve", "weight"), "conv.weight", "o c y x -> y x c o"),
            (("norm", "scale"), "norm.weight", "o -> o"),
        )
    },
    ("audio", "embed", "weight"): (
        "audio_tower.subsample_conv_projection.input_proj_linear.weight",
        "w (f c) -> f c w",
    ),
    ("audio", "out_proj", "weight"): ("audio_tower.output_proj.weight", "o w -> w o"),
    ("audio", "bias"): ("audio_tower.output_proj.bias", "o -> o"),
    ("audio", "project", "weight"): ("embed_audio.embedding_projection.weight", "d o -> o d"),
}
FRAMES: Table = {("audio", "project", "weight"): ("embed_audio.embedding_projection.weight", "d m -> m d")}
AUDIO_LAYER: Table = {
    **{
        (module, *leaf): (f"{hf_module}.{name}", axes)
        for module, hf_module in (("ffn_start", "feed_forward1"), ("ffn_end", "feed_forward2"))
        for leaf, name, axes in (
            (("pre", "scale"), "pre_layer_norm.weight", "w -> w"),
            (("up", "weight"), "ffw_layer_1.linear.weight", "f w -> w f"),
            (("down", "weight"), "ffw_layer_2.linear.weight", "w f -> f w"),
            (("post", "scale"), "post_layer_norm.weight", "w -> w"),
        )
    },
    ("attention_pre", "scale"): ("norm_pre_attn.weight", "w -> w"),
    ("attention_post", "scale"): ("norm_post_attn.weight", "w -> w"),
    ("norm", "scale"): ("norm_out.weight", "w -> w"),
    ("attention", "query", "weight"): ("self_attn.q_proj.linear.weight", "(h k) w -> w h k"),
    ("attention", "key", "weight"): ("self_attn.k_proj.linear.weight", "(h k) w -> w h k"),
    ("attention", "value", "weight"): ("self_attn.v_proj.linear.weight", "(h k) w -> w h k"),
    ("attention", "out", "weight"): ("self_attn.post.linear.weight", "w (h k) -> h k w"),
    ("attention", "relative"): ("self_attn.relative_k_proj.weight", "(h k) w -> w h k"),
    ("attention", "per_dim_scale"): ("self_attn.per_dim_scale", "k -> k"),
    ("convolution", "pre", "scale"): ("lconv1d.pre_layer_norm.weight", "w -> w"),
    ("convolution", "pw_in", "weight"): ("lconv1d.linear_start.linear.weight", "(g v) w -> w g v"),
    ("convolution", "weight"): ("lconv1d.depthwise_conv1d.weight", "v 1 k -> k v"),
    ("convolution", "norm", "scale"): ("lconv1d.conv_norm.weight", "v -> v"),
    ("convolution", "pw_out", "weight"): ("lconv1d.linear_end.linear.weight", "w v -> v w"),
}


@dataclasses.dataclass(frozen=True)
class HFTensor:
    """A leaf in the Hugging Face layout: the tensors it stacks, and the einops pattern from one of them to ours."""

    names: np.ndarray  # str[...], of the leaf's leading axes
    axes: str
    offset: float = 0.0  # ours is the stored value plus this

    @property
    def inverse(self) -> str:
        """The pattern from ours to the Hugging Face layout's."""
        hf_axes, our_axes = self.axes.split("->")
        return f"{our_axes.strip()} -> {hf_axes.strip()}"


def hf_tensor(leaf: Path, arch: Architecture, embedder: bool) -> HFTensor:
    """Find a leaf of the parameters of `arch` in a published model; `embedder`: of an EmbeddingGemma 2.

    Raises KeyError for a leaf that no published model has.
    """
    if leaf[-1] == "bounds":
        weight = hf_tensor((*leaf[:-1], "weight"), arch, embedder)
        names = [[name.removesuffix("linear.weight") + bound for bound in BOUNDS] for name in weight.names.flat]
        return HFTensor(np.array(names).reshape(*weight.names.shape, len(BOUNDS)), "->")
    layers: list = []  # the leaf's leading axes, as prefixes of tensor names
    n = arch.local_per_group + 1
    linear = ".linear" if leaf[0] == "vision" else ""
    ple, block = ("ple.", "ple_block.") if embedder else ("", "")
    match leaf:
        case ("projection", "weight"):
            table = {leaf: ("language_model.embedding_projection.weight" if embedder else DENSE, "e d -> d e")}
        case ("backbone", "groups" | "shared_groups" as stack, layer, *rest):
            num_unshared = arch.layer_groups - arch.shared_kv_groups
            groups = range(num_unshared) if stack == "groups" else range(num_unshared, arch.layer_groups)
            layers = [[f"language_model.layers.{group * n + i}." for i in range(n)] for group in groups]
            layers = [group[-1] if layer == "global" else group[:-1] for group in layers]
            table, leaf = LAYER, tuple(rest)
        case ("backbone", "last_group", "locals", *rest):
            layers = [f"language_model.layers.{i}." for i in range(arch.layer_groups * n, arch.num_layers)]
            table, leaf = LAYER, tuple(rest)
        case ("vision", "layers", *rest):
            assert arch.vision is not None
            layers = [f"vision_tower.encoder.layers.{i}." for i in range(arch.vision.num_layers)]
            table, leaf = TRANSFORMER_BLOCK, tuple(rest)
        case ("audio", "layers", *rest):
            assert arch.audio is not None
            layers = [f"audio_tower.layers.{i}." for i in range(arch.audio.num_layers)]
            table, leaf = AUDIO_LAYER, tuple(rest)
        case ("vision", *_):
            table = PATCHES if arch.vision is None else VISION_TOWER
        case ("audio", *_):
            table = FRAMES if arch.audio is None else AUDIO_TOWER
        case _:
            table = TEXT
    name, axes = table[leaf]
    name = name.format(ple=ple, block=block, linear=linear)
    if not is_gemma3(arch):
        return HFTensor(np.char.add(layers or "", name), axes)
    prefix = MEDIA if table in (PATCHES, FRAMES) else ""
    offset = NORM_OFFSET if name.endswith("norm.weight") and not prefix else 0.0
    return HFTensor(np.char.add(layers or prefix, name), axes, offset)
