"""The published sizes: every tensor's name and shape as transformers builds it, and the memory that an import takes."""

import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

torch = pytest.importorskip("torch", reason="needs the extra [hf]")
transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")

from reference import BUDGET, apart, random_pieces, their_inputs, their_states  # noqa: E402

from embed.data.collate import make_rows  # noqa: E402
from embed.data.preprocess import Preprocessor  # noqa: E402
from embed.distributed import mesh  # noqa: E402
from embed.hf.config import is_embedder, read_architecture  # noqa: E402
from embed.hf.load import load  # noqa: E402
from embed.hf.tensors import DENSE, MEDIA, TEXT_PART, hf_tensor  # noqa: E402
from embed.model.build import build  # noqa: E402
from embed.model.encoder import encode  # noqa: E402
from embed.model.params import param_structs  # noqa: E402
from embed.model.presets import PUBLISHED  # noqa: E402

LOCAL, GLOBAL = "sliding_attention", "full_attention"
ORDERS = ("w", "p", "s", "v", "wp", "pw", "sw", "wpw", "wvvs", "swpvw", "wpsw", "pspw")
ROPE = {
    LOCAL: {"rope_type": "default", "rope_theta": 1e4},
    GLOBAL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}
# hidden size, feed-forward, layers, heads: config.json of google/gemma-3-270m, gemma-3-1b-pt and embeddinggemma-300m
GEMMA3 = {
    "gemma3_270m": dict(hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4),
    "gemma3_1b": dict(hidden_size=1152, intermediate_size=6912, num_hidden_layers=26, num_attention_heads=4),
    "embeddinggemma": dict(
        hidden_size=768,
        intermediate_size=1152,
        num_hidden_layers=24,
        num_attention_heads=3,
        use_bidirectional_attention=True,
    ),
}


def published(name: str):
    """The class and the configuration that transformers' own conversion scripts and model cards state."""
    if name in GEMMA3:
        text = dict(vocab_size=262_144, num_key_value_heads=1, head_dim=256, sliding_window=512) | GEMMA3[name]
        return transformers.Gemma3TextModel, transformers.Gemma3TextConfig(**text)
    if name == "embeddinggemma2":
        text = transformers.EmbeddingGemma2TextConfig()
        vision = transformers.Gemma4VisionConfig(use_clipped_linears=False)
        audio = transformers.Gemma4AudioConfig()
        config = transformers.EmbeddingGemma2Config(text_config=text, vision_config=vision, audio_config=audio)
        return transformers.EmbeddingGemma2Model, config
    if name == "gemma4_12b":
        text = dict(
            hidden_size=3840, intermediate_size=15_360, num_hidden_layers=48, layer_types=([LOCAL] * 5 + [GLOBAL]) * 8
        )
        text |= dict(num_attention_heads=16, num_key_value_heads=8, num_global_key_value_heads=1, sliding_window=1024)
        text |= dict(attention_k_eq_v=True, rope_parameters=ROPE)
        parts = dict(vision_config={}, audio_config={})
        return transformers.Gemma4UnifiedModel, transformers.Gemma4UnifiedConfig(text_config=text, **parts)
    text = dict(num_attention_heads=8, hidden_size_per_layer_input=256, rope_parameters=ROPE)
    if name == "gemma4_e2b":
        text |= dict(
            hidden_size=1536, intermediate_size=6144, num_hidden_layers=35, layer_types=([LOCAL] * 4 + [GLOBAL]) * 7
        )
        text |= dict(num_key_value_heads=1, num_kv_shared_layers=20, use_double_wide_mlp=True)
    else:
        text |= dict(hidden_size=2560, intermediate_size=10_240, num_hidden_layers=42)
        text |= dict(num_key_value_heads=2, num_kv_shared_layers=18)
    parts = dict(vision_config=transformers.Gemma4VisionConfig(use_clipped_linears=True), audio_config={})
    return transformers.Gemma4Model, transformers.Gemma4Config(text_config=text, **parts)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_has_the_name_and_shape_of_the_reference(tmp_path, name):
    cls, config = published(name)
    config.save_pretrained(tmp_path)
    arch = read_architecture(tmp_path)
    assert arch == PUBLISHED[name]
    with torch.device("meta"):
        model = cls(config)
    from transformers.core_model_loading import revert_weight_conversion

    there = {key: tuple(t.shape) for key, t in revert_weight_conversion(model, model.state_dict()).items()}
    here = {}
    for path, leaf in flatten_dict(param_structs(build(arch))).items():
        place = hf_tensor(path, arch, is_embedder(arch))
        sizes = dict(zip(place.axes.split("->")[1].split(), leaf.shape[place.names.ndim :], strict=True)) | {"1": 1}
        shape, group = [], None
        for axis in place.axes.split("->")[0].replace("(", "( ").replace(")", " )").split():
            if axis == "(":
                group = 1
            elif axis == ")":
                shape.append(group)
                group = None
            elif group is None:
                shape.append(sizes[axis])
            else:
                group *= sizes[axis]
        here |= dict.fromkeys(map(str, place.names.flat), tuple(shape))
    if not is_embedder(arch):
        assert here.pop(DENSE) == (arch.embed_dim, arch.d_model)
    of_ours = {key for key in here if key.startswith(MEDIA)}  # the image and audio maps of a text model
    assert bool(of_ours) == (name in GEMMA3)
    added = sum(math.prod(here.pop(key)) for key in of_ours)
    if name in GEMMA3:
        here = {key.removeprefix(TEXT_PART): shape for key, shape in here.items()}
    assert here == there
    count = sum(leaf.size for leaf in jax.tree.leaves(param_structs(build(arch))))
    added += 0 if is_embedder(arch) else arch.d_model * arch.embed_dim
    assert count == sum(t.numel() for t in model.state_dict().values()) + added


LOAD = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from embed import hf
from embed.data.budget import Budget
from embed.data.collate import make_rows
from embed.data.pieces import TextPiece
from embed.data.preprocess import Preprocessor
from embed.data.tokenizer import Tokenizer
from embed.distributed import mesh
from embed.model.build import build
from embed.model.encoder import encode

def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

with jax.set_mesh(mesh.make_mesh((1, 1, 1))):
    arch = hf.read_architecture(sys.argv[1])
    jax.block_until_ready(jnp.ones(8) + 1)
    before = peak()
    params = hf.load(sys.argv[1], dtype=jnp.bfloat16)
    after = peak()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    preprocessor = Preprocessor(Tokenizer.load(sys.argv[2]), arch.media)
    rows = make_rows([[TextPiece(tuple(range(5, 5 + n)))] for n in (4, 20)], Budget(32), preprocessor)
    vectors = np.asarray(encode(build(arch, jnp.bfloat16, remat=False), params, mesh.to_global(rows)))
    assert vectors.shape == (2, 768) and np.isfinite(vectors).all()
    print(before, after, peak(), size)
"""


@pytest.fixture(scope="module")
def embeddinggemma2(tmp_path_factory, tokenizer):
    """The folder of an EmbeddingGemma 2 of the published size with random weights in bfloat16."""
    folder = tmp_path_factory.mktemp("embeddinggemma2")
    cls, config = published("embeddinggemma2")
    for name in ("image", "video", "audio"):
        setattr(config, f"{name}_token_id", getattr(tokenizer, name)[1])
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = cls(config)
    finally:
        torch.set_default_dtype(dtype)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            if "q_norm" in name or "k_norm" in name:  # scores of variance 1: at norms of 1 attention is all or nothing
                leaf.fill_(len(leaf) ** -0.25)
    model.save_pretrained(folder, max_shard_size="500MB")
    tokenizer.save(folder / "tokenizer.json")
    return folder


def test_importing_embeddinggemma2_takes_little_more_than_one_copy(embeddinggemma2):
    command = [sys.executable, "-c", LOAD, str(embeddinggemma2), str(embeddinggemma2 / "tokenizer.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after, embedded, size = map(int, done.stdout.split()[-4:])
    said = {"imports": before, "import": after, "embedding": embedded, "one copy": size}
    print(json.dumps({name: round(value / 2**30, 2) for name, value in said.items()}))
    assert size > 1.4e9
    assert after < 1.5 * size


def test_in_bfloat16_its_vectors_are_those_of_the_reference_in_float32(embeddinggemma2, tokenizer):
    """Every modality and interleaving, with padding, at the published size."""
    arch = read_architecture(embeddinggemma2)
    params = load(embeddinggemma2, dtype=jnp.bfloat16)
    preprocessor, rng = Preprocessor(tokenizer, arch.media), np.random.default_rng(0)
    pieces = [random_pieces(order, arch.media, tokenizer, rng) for order in ORDERS]
    rows = mesh.to_global(make_rows(pieces, BUDGET, preprocessor))
    found = np.asarray(encode(build(arch, jnp.bfloat16, remat=False), params, rows))
    del params
    model = published("embeddinggemma2")[0].from_pretrained(embeddinggemma2, dtype=torch.float32).eval()
    expected = np.stack(
        [
            their_states(model, their_inputs(model, laid, one, arch.media))[0]
            for one, laid in zip(pieces, apart(rows), strict=True)
        ]
    )
    found, expected = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (found, expected))
    print((found * expected).sum(1), (expected @ expected.T).round(3))
    assert (found * expected).sum(1).min() >= 0.999
    assert np.triu(expected @ expected.T, 1).max() < 0.99  # and the inputs are told apart
