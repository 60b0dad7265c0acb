"""The same numbers as the transformers library: random configurations and weights, through folders it wrote."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity tests need the extra [hf]")
pytest.importorskip("transformers.models.embedding_gemma2", reason="the parity tests need the extra [hf]")

from reference import BUDGET, KINDS, apart, random_pieces, their_inputs, their_states, written  # noqa: E402

from embed import hf  # noqa: E402
from embed.data.collate import make_rows  # noqa: E402
from embed.data.preprocess import Preprocessor  # noqa: E402
from embed.distributed import mesh  # noqa: E402
from embed.hf.config import is_embedder  # noqa: E402
from embed.model import audio, transformer, vision  # noqa: E402
from embed.model.build import build  # noqa: E402

ORDERS = ("w", "p", "s", "v", "wp", "pw", "wpw", "sw", "wsw", "vvw", "wvvs", "pwps", "swpvw", "wpsw", "pspw", "vsvw")


@pytest.fixture
def states(monkeypatch):
    """What every layer of ours gives, in order, once a model has run: {part: [array, ...]}."""
    seen: dict[str, list] = {"text": [], "vision": [], "audio": []}

    def spy(part, cls):
        original = cls.__call__

        def call(self, *args):
            out = original(self, *args)
            jax.debug.callback(seen[part].append, out[0] if part == "text" else out, ordered=True)
            return out

        monkeypatch.setattr(cls, "__call__", call)

    spy("text", transformer.Layer)
    spy("vision", vision.VisionLayer)
    spy("audio", audio.ConformerLayer)
    return seen


def laid_out(arch, tokenizer, seed, orders=ORDERS):
    preprocessor = Preprocessor(tokenizer, arch.media)
    rng = np.random.default_rng(seed)
    pieces = [random_pieces(order, arch.media, tokenizer, rng) for order in orders]
    return pieces, make_rows(pieces, BUDGET, preprocessor)


def ours(arch, params, rows, dtype=jnp.float32):
    encoder = build(arch, dtype, remat=False)
    apply = jax.jit(lambda params, inputs: encoder.apply({"params": params}, inputs)[:, 0])
    return np.asarray(apply(params, mesh.to_global(rows)), np.float32)


def projected(arch, params, mean):
    return mean if is_embedder(arch) else mean @ np.asarray(params["projection"]["weight"], np.float32)


def far(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_and_embedding_equals_the_reference(tmp_path, tokenizer, states, kind, seed):
    model = written(tmp_path, kind, seed, tokenizer)
    arch = hf.read_architecture(tmp_path)
    params = hf.load(tmp_path)
    pieces, rows = laid_out(arch, tokenizer, seed)
    for part in states.values():
        part.clear()
    found = ours(arch, params, rows)
    jax.effects_barrier()
    k2 = 1 if arch.vision is None else arch.vision.pool_size**2
    for i, (one, laid) in enumerate(zip(pieces, apart(rows), strict=True)):
        mean, theirs = their_states(model, their_inputs(model, laid, one, arch.media))
        expected = projected(arch, params, mean)
        assert far(found[i], expected) <= 1e-4
        n = int((laid.segments > 0).sum())
        assert len(theirs["text"]) == len(states["text"]) == arch.num_layers
        for mine, other in zip(states["text"], theirs["text"], strict=True):
            assert far(mine[i, :n], other[0]) <= 1e-3
        check_towers(states, theirs, laid, i, arch, k2)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "embeddinggemma2"])
def test_a_causal_model_equals_the_reference(tmp_path, tokenizer, kind):
    model = written(tmp_path, kind, 0, tokenizer, causal=True)
    arch = hf.read_architecture(tmp_path, "causal")
    params = hf.load(tmp_path)
    pieces, rows = laid_out(arch, tokenizer, 0, ("w", "wpw", "swpvw"))
    inputs = [their_inputs(model, row, one, arch.media) for one, row in zip(pieces, apart(rows), strict=True)]
    expected = projected(arch, params, np.stack([their_states(model, one)[0] for one in inputs]))
    assert far(ours(arch, params, rows), expected) <= 1e-4
    assert hf.read_architecture(tmp_path).attention == "bidirectional"
    assert far(ours(dataclasses.replace(arch, attention="bidirectional"), params, rows), expected) > 1e-2


def check_towers(states, theirs, laid, i, arch, k2):
    images = [j for j in range(len(laid.patch_xy)) if laid.patch_xy[j, 0, 0] >= 0]
    if theirs["vision"] and len(theirs["vision"]) == arch.vision.num_layers:  # images and frames apart: two runs
        for mine, other in zip(states["vision"], theirs["vision"], strict=True):
            for j, image in enumerate(images):
                # Ours lie square by square, theirs row by row: the same set of vectors.
                count = int((laid.patch_xy[image, :, 0] >= 0).sum()) * k2
                a = np.sort(mine[i * BUDGET.images + image, :count], axis=0)
                assert far(a, np.sort(other[j, :count], axis=0)) <= 1e-3
    clips = [j for j in range(BUDGET.clips) if laid.audio_mask[j].any()]
    for mine, other in zip(states["audio"], theirs["audio"] or states["audio"], strict=True):
        for j, clip in enumerate(clips if theirs["audio"] else []):
            count = -(-int(laid.audio_mask[clip].sum()) // 4)
            assert far(mine[i * BUDGET.clips + clip, :count], other[j, :count]) <= 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_it_is_as_near_to_float32_as_the_reference_is(tmp_path, tokenizer, kind):
    """Narrow random models magnify rounding; test_full_size.py has a wide one, where every cosine is above 0.999."""
    coarse = written(tmp_path, kind, 3, tokenizer, torch.bfloat16)
    # Read again, not cast: its constants (sqrt(width), rotary frequencies) were rounded with the weights.
    fine = type(coarse).from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    arch = hf.read_architecture(tmp_path)
    params = hf.load(tmp_path)
    pieces, rows = laid_out(arch, tokenizer, 3)
    found = ours(arch, params, rows, jnp.bfloat16)
    cosines = []
    for one, laid, vector in zip(pieces, apart(rows), found, strict=True):
        inputs = their_inputs(fine, laid, one, arch.media)
        expected = projected(arch, params, their_states(fine, inputs)[0])
        rounded = {name: x.bfloat16() if x.is_floating_point() else x for name, x in inputs.items()}
        other = projected(arch, params, their_states(coarse, rounded)[0])
        norm = np.linalg.norm(expected)
        cosines.append([x @ expected / np.linalg.norm(x) / norm for x in (vector, other)])
    mine, theirs = np.median(cosines, axis=0)
    assert mine >= 0.999 and 1 - mine <= 2 * (1 - theirs)
    assert np.min(cosines, axis=0)[0] >= 0.998


def test_every_wrong_tensor_is_named(tmp_path, tokenizer):
    written(tmp_path, "embeddinggemma2", 3, tokenizer)
    arch = hf.read_architecture(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 1
    config["text_config"]["num_hidden_layers"] += arch.local_per_group + 1
    config["text_config"]["layer_types"] += [*["sliding_attention"] * arch.local_per_group, "full_attention"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(hf.HubError) as error:
        hf.load(tmp_path)
    said = str(error.value)
    assert f"layers.{arch.num_layers}.mlp.up_proj.weight is missing" in said
    assert "layers.0.mlp.up_proj.weight is [" in said and "does not make" in said
    config["text_config"]["layer_types"] = config["text_config"]["layer_types"][: arch.local_per_group + 1]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(hf.HubError, match=rf"layers.{arch.local_per_group + 1}.mlp.up_proj.weight is not known"):
        hf.load(tmp_path)


def test_other_models_and_torn_files_are_refused(tmp_path, tokenizer):
    written(tmp_path, "embeddinggemma2", 0, tokenizer)
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(hf.HubError, match=f"{shard.name} is not a whole safetensors file"):
        hf.load(tmp_path)
    for shard in tmp_path.glob("*.safetensors*"):  # and their index
        shard.unlink()
    with pytest.raises(hf.HubError, match=r"no \.safetensors file"):
        hf.load(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"model_type": "llama"}))
    with pytest.raises(hf.HubError, match="model_type 'llama'; known are embedding_gemma2"):
        hf.read_architecture(tmp_path)
