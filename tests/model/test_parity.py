"""The same numbers as the transformers library, for random configurations and weights, through a folder it wrote."""

import dataclasses
import json
import random

import jax
import numpy as np
import pytest

from embed import hf, mesh
from embed.data.layout import Budget, Layout, Words, row, stack
from embed.model.encoder import Encoder

torch = pytest.importorskip("torch", reason="the parity tests need the extra [hf]")
reference = pytest.importorskip("transformers.models.embedding_gemma2", reason="the parity tests need the extra [hf]")
VOCABULARY, LENGTHS = 96, (17, 11, 3)


def config(seed: int):
    """A random small configuration: groups, heads, sizes, window, rotary share."""
    rng = random.Random(seed)
    locals_, groups = rng.choice([1, 2, 5]), rng.choice([1, 2, 3])
    rope = {"rope_type": "default", "rope_theta": 1e6}
    if seed % 3 == 2:
        rope |= {"rope_type": "proportional", "partial_rotary_factor": rng.choice([0.25, 0.5])}
    return reference.EmbeddingGemma2TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=rng.choice([32, 48, 64]),
        intermediate_size=rng.choice([48, 96]),
        num_hidden_layers=groups * (locals_ + 1),
        sliding_window_pattern=locals_ + 1,
        num_attention_heads=rng.choice([2, 4]),
        num_key_value_heads=rng.choice([1, 2]),
        head_dim=rng.choice([8, 16]),
        global_head_dim=rng.choice([16, 32]),
        num_global_key_value_heads=rng.choice([1, 2]),
        sliding_window=rng.choice([1, 2, 5, 9]),
        hidden_size_per_layer_input=rng.choice([8, 16]),
        embedding_dim=rng.choice([24, 40]),
        rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": rope},
        attn_implementation="eager",
    )


def written(folder, seed: int, dtype=torch.float32):
    """A model with random weights, norms and scalars included, saved in shards."""
    torch.manual_seed(seed)
    model = reference.EmbeddingGemma2TextModel(config(seed)).eval()
    spread = random.Random(seed).choice([0.02, 0.2])
    with torch.no_grad():
        for name, leaf in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in name or "layer_scalar" in name:
                leaf.copy_(1 + 0.3 * torch.randn_like(leaf))
            elif "inv_freq" not in name and "embed_scale" not in name:
                leaf.copy_(spread * torch.randn_like(leaf))
    model.to(dtype).save_pretrained(folder, max_shard_size="40KB")
    return model


def vectors(folder, tokenizer, tokens):
    arch = hf.architecture(folder)
    layout = Layout(tokenizer, arch.patch, arch.image_patches, arch.frame_patches, arch.audio_frame)
    budget = Budget(max(LENGTHS) + 3)
    rows = stack([row([Words(tuple(ids))], budget, layout) for ids in tokens], budget, layout)
    params = hf.load(folder, arch, tokenizer)
    return np.asarray(jax.jit(Encoder(arch, remat=False).apply)({"params": params}, mesh.to_global(rows)))[:, 0]


@pytest.mark.parametrize("seed", range(20))
def test_embeddings_equal_the_reference(tmp_path, tokenizer, seed):
    model = written(tmp_path, seed)
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(3, VOCABULARY, n).tolist() for n in LENGTHS]
    expected = []
    for ids in tokens:
        whole = [*tokenizer.prefix, *ids, *tokenizer.suffix]
        with torch.no_grad():
            expected.append(model(input_ids=torch.tensor([whole])).last_hidden_state[0].mean(0).numpy())
    found = vectors(tmp_path, tokenizer, tokens)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_bfloat16_folders_are_read(tmp_path, tokenizer):
    model = written(tmp_path, 1, torch.bfloat16)
    params = hf.load(tmp_path, hf.architecture(tmp_path), tokenizer)
    expected = model.embed_tokens.weight.detach().float().numpy()
    np.testing.assert_array_equal(params["vocabulary"], expected)


def test_every_wrong_tensor_is_named(tmp_path, tokenizer):
    written(tmp_path, 3)
    arch = hf.architecture(tmp_path)
    other = dataclasses.replace(arch, groups=arch.groups + 1, hidden=arch.hidden + 1, per_layer=0)
    with pytest.raises(hf.HubError) as error:
        hf.load(tmp_path, other, tokenizer)
    said = str(error.value)
    assert f"layers.{arch.layers}.mlp.up_proj.weight is missing" in said
    assert "layers.0.mlp.up_proj.weight is [" in said and "does not make" in said
    assert "layers.0.ple_block.per_layer_input_gate.weight is not known" in said


def test_other_models_and_torn_files_are_refused(tmp_path, tokenizer):
    written(tmp_path, 0)
    arch = hf.architecture(tmp_path)
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(hf.HubError, match=f"{shard.name} is not a whole safetensors file"):
        hf.load(tmp_path, arch, tokenizer)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"model_type": "gemma4"}))
    with pytest.raises(hf.HubError, match="model_type 'gemma4'; only embedding_gemma2"):
        hf.architecture(tmp_path)
    with pytest.raises(hf.HubError, match=r"no \.safetensors file"):
        hf.load(tmp_path / "nowhere", arch, tokenizer)
