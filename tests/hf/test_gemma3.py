"""Gemma 3 and EmbeddingGemma: the same numbers as transformers and sentence-transformers, and out and back."""

import dataclasses
import itertools
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity tests need the extra [hf]")
transformers = pytest.importorskip("transformers", reason="the parity tests need the extra [hf]")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="the parity tests need the extra [hf]")

from embed import hf  # noqa: E402
from embed.data.budget import Budget  # noqa: E402
from embed.data.collate import make_packed_rows  # noqa: E402
from embed.data.pieces import TextPiece  # noqa: E402
from embed.data.preprocess import Preprocessor  # noqa: E402
from embed.distributed import mesh  # noqa: E402
from embed.embedder import Embedder  # noqa: E402
from embed.model import transformer  # noqa: E402
from embed.model.build import build  # noqa: E402
from embed.training.metadata import read_metadata  # noqa: E402
from embed.training.published import export_checkpoint, import_checkpoint  # noqa: E402
from embed.training.weights import load_params  # noqa: E402

VOCABULARY = 512
LENGTHS = (1, 3, 9, 20, 33)  # across every window below
WITH_HEAD = "lm_head.weight"


def write_model(folder, seed: int, tokenizer, *, bidirectional: bool, head: bool = False):
    """Save a Gemma3TextModel (or with a head) of random sizes, layers, windows and weights; the last group may be
    incomplete."""
    rng = random.Random(seed)
    per_group = rng.choice([2, 3, 4])
    layers = per_group * rng.choice([1, 2]) + rng.choice([0, 1, per_group - 1])
    config = transformers.Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=rng.choice([32, 48, 64]),
        intermediate_size=rng.choice([48, 96]),
        num_hidden_layers=layers,
        layer_types=[
            "full_attention" if i % per_group == per_group - 1 else "sliding_attention" for i in range(layers)
        ],
        num_attention_heads=rng.choice([2, 4]),
        num_key_value_heads=rng.choice([1, 2]),
        head_dim=rng.choice([8, 16]),
        query_pre_attn_scalar=rng.choice([8, 24, 256]),
        sliding_window=rng.choice([2, 5, 8, 14]),
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "default", "rope_theta": rng.choice([1e5, 1e6])},
        },
        use_bidirectional_attention=bidirectional,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = (transformers.Gemma3ForCausalLM if head else transformers.Gemma3TextModel)(config).eval()
    with torch.no_grad():
        for name, leaf in model.state_dict().items():
            if name != WITH_HEAD:  # tied to the table
                leaf.copy_((0.3 if "norm" in name else 0.1) * torch.randn_like(leaf))
    model.save_pretrained(folder, max_shard_size="100KB")
    tokenizer.save(folder / "tokenizer.json")
    return model


def add_modules(folder, widths, rng) -> list[np.ndarray]:
    """Write the sentence-transformers modules of EmbeddingGemma: mean pooling, Dense layers, normalization."""
    files = {
        "1_Pooling": {"word_embedding_dimension": widths[0], "pooling_mode_mean_tokens": True, "include_prompt": True}
    }
    modules = [("", "models.Transformer"), ("1_Pooling", "models.Pooling")]
    weights = []
    for i, (d_in, d_out) in enumerate(itertools.pairwise(widths), 2):
        name = f"{i}_Dense"
        weights.append(rng.standard_normal((d_out, d_in)).astype(np.float32) / d_in**0.5)
        files[name] = {
            "in_features": d_in,
            "out_features": d_out,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        modules.append((name, "models.Dense"))
    modules.append((f"{len(modules)}_Normalize", "models.Normalize"))
    files[modules[-1][0]] = {}
    for name, config in files.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    from safetensors.numpy import save_file

    for i, weight in enumerate(weights, 2):
        save_file({"linear.weight": weight}, folder / f"{i}_Dense" / "model.safetensors")
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    return weights


def make_texts(seed: int, lengths=LENGTHS) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(20, VOCABULARY, n).tolist()) for n in lengths]


def pack(texts, groups, arch, tokenizer):
    """Rows with the texts of each group, padded to one length."""
    rows = [[[TextPiece(texts[i])] for i in group] for group in groups]
    tokens = max(sum(len(texts[i]) + 2 for i in group) for group in groups) + 3
    return make_packed_rows(rows, Budget(tokens), Preprocessor(tokenizer, arch.media), max(map(len, groups)))


def embed_rows(arch, params, rows) -> np.ndarray:
    encoder = build(arch)
    return np.asarray(jax.jit(lambda p, x: encoder.apply({"params": p}, x))(params, mesh.to_global(rows)))


def far(x, expected) -> float:
    return np.abs(x - expected).max() / np.abs(expected).max()


def hidden_states(model, ids) -> list[np.ndarray]:
    """What every layer gives, and the final norm, f32[l,d] each."""
    states = []
    text = getattr(model, "model", model)
    hooks = [
        layer.register_forward_hook(lambda _, __, out: states.append(out[0] if isinstance(out, tuple) else out))
        for layer in text.layers
    ]
    with torch.no_grad():
        last = text(input_ids=torch.tensor([ids])).last_hidden_state
    for hook in hooks:
        hook.remove()
    return [state.reshape(len(ids), -1).numpy() for state in (*states, last)]


def with_specials(text, tokenizer) -> list[int]:
    return [*tokenizer.prefix, *text, *tokenizer.suffix]


@pytest.fixture
def layer_states(monkeypatch):
    """What every layer of ours gives, in order, once a model has run."""
    states: list[np.ndarray] = []
    original = transformer.Layer.__call__

    def call(self, *args):
        out = original(self, *args)
        jax.debug.callback(states.append, out[0], ordered=True)
        return out

    monkeypatch.setattr(transformer.Layer, "__call__", call)
    return states


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
@pytest.mark.parametrize("seed", range(20))
def test_every_layer_and_embedding_equals_transformers(tmp_path, tokenizer, layer_states, seed, direction):
    model = write_model(tmp_path, seed, tokenizer, bidirectional=direction == "bidirectional", head=seed % 2 == 1)
    arch = hf.read_architecture(tmp_path, direction)
    params = hf.load(tmp_path)
    texts = make_texts(seed)
    projection = np.asarray(params["projection"]["weight"])
    layer_states.clear()
    padded = embed_rows(arch, params, pack(texts, [[i] for i in range(len(texts))], arch, tokenizer))
    jax.effects_barrier()
    states = [np.asarray(state) for state in layer_states]
    assert len(states) == arch.num_layers == model.config.num_hidden_layers
    packed = embed_rows(arch, params, pack(texts, [[4, 0], [1, 3, 2]], arch, tokenizer))
    places = {4: (0, 0), 0: (0, 1), 1: (1, 0), 3: (1, 1), 2: (1, 2)}
    for i, text in enumerate(texts):
        ids = with_specials(text, tokenizer)
        *layers, last = hidden_states(model, ids)
        for state, expected in zip(states, layers, strict=True):
            assert far(state[i, : len(ids)], expected) <= 1e-4
        expected = last.mean(0) @ projection
        assert far(padded[i, 0], expected) <= 1e-4
        assert far(packed[places[i]], expected) <= 1e-4
    other = "causal" if direction == "bidirectional" else "bidirectional"
    crossed = embed_rows(dataclasses.replace(arch, attention=other), params, pack(texts, [[4]], arch, tokenizer))
    assert far(crossed[0, 0], padded[4, 0]) > 1e-3  # the direction matters


@pytest.mark.parametrize("seed", range(20))
def test_embeddinggemma_with_its_modules_equals_sentence_transformers(tmp_path, tokenizer, seed):
    theirs = tmp_path / "theirs"
    model = write_model(theirs, seed, tokenizer, bidirectional=True)
    rng = np.random.default_rng(seed)
    d = model.config.hidden_size
    widths = (d, 4 * d, d) if seed % 4 else (d, 24)
    add_modules(theirs, widths, rng)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    (theirs / "tokenizer_config.json").write_text(json.dumps(config))
    texts = ["a red square on the left", "def f(x): return x" * 3, "größer als", "x"]
    expected = sentence_transformers.SentenceTransformer(str(theirs), device="cpu").encode(texts, batch_size=1)
    assert hf.read_architecture(theirs).embed_dim == widths[-1]
    import_checkpoint(theirs, tmp_path / "run")
    embedder = Embedder.load(tmp_path / "run")
    assert far(embedder.embed(texts), expected) <= 1e-4
    assert {name.partition("/")[0] for name in read_metadata(tmp_path / "run")["new"]} == {"vision", "audio"}
    export_checkpoint(tmp_path / "run", tmp_path / "ours")
    assert hf.find_new(tmp_path / "ours", hf.read_architecture(tmp_path / "ours")) == []
    back = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(texts)
    assert far(back, expected) <= 1e-4


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
@pytest.mark.parametrize("seed", [1, 2])
def test_out_and_back_keeps_the_weights(tmp_path, tokenizer, seed, direction):
    model = write_model(tmp_path / "theirs", seed, tokenizer, bidirectional=direction == "bidirectional")
    import_checkpoint(tmp_path / "theirs", tmp_path / "run", direction)
    export_checkpoint(tmp_path / "run", tmp_path / "ours")
    arch = hf.read_architecture(tmp_path / "ours")
    assert arch == hf.read_architecture(tmp_path / "theirs", direction)
    ours = load_params(tmp_path / "run")
    assert {"vision", "audio", "projection"} < ours.keys()

    # A norm is stored as its difference from 1: a rounding of the last bit where it is small.
    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=2**-24)

    jax.tree.map(close, ours, hf.load(tmp_path / "ours"))
    again, report = transformers.Gemma3TextModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    for name, leaf in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], leaf, rtol=0, atol=2**-24 if "norm" in name else 0)
    with torch.no_grad():
        ids = torch.tensor([with_specials(make_texts(seed)[-1], tokenizer)])
        torch.testing.assert_close(again(input_ids=ids)[0], model(input_ids=ids)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_causal_model_continues_a_text_as_transformers_does(tmp_path, tokenizer, seed):
    """The tied table as the projection of the last token makes the encoder a language model."""
    model = write_model(tmp_path, seed, tokenizer, bidirectional=False, head=True)
    arch = hf.read_architecture(tmp_path, "causal")
    params = hf.load(tmp_path)
    params["projection"] = {"weight": params["vocabulary"].T}
    arch = dataclasses.replace(arch, pooling="last", matryoshka_dims=(VOCABULARY,))
    texts = make_texts(seed, (2, 7, 18, 30))
    rows = pack(texts, [[i] for i in range(len(texts))], arch, tokenizer)
    logits = embed_rows(arch, params, rows)[:, 0]
    for text, ours in zip(texts, logits, strict=True):
        with torch.no_grad():
            theirs = model(input_ids=torch.tensor([with_specials(text, tokenizer)])).logits[0, -1].numpy()
        assert far(ours, theirs) <= 1e-4
        assert ours.argmax() == theirs.argmax()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}, "rope_type 'linear'"),
        ({"layer_types": ["full_attention", "sliding_attention"] * 2, "num_hidden_layers": 5}, "layer_types: not 5"),
        ({"layer_types": ["sliding_attention"] * 4, "num_hidden_layers": 4}, "no full attention layer"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0"),
        ({"vision_config": {"hidden_size": 32}}, "vision tower"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
    ],
)
def test_what_is_not_implemented_is_refused_in_one_line(tmp_path, tokenizer, fields, message):
    write_model(tmp_path, 0, tokenizer, bidirectional=False)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(hf.HubError, match=message) as error:
        hf.read_architecture(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["bias", "activation", "order"])
def test_a_dense_module_that_is_no_linear_map_is_refused(tmp_path, tokenizer, change):
    from safetensors.numpy import load_file, save_file

    model = write_model(tmp_path, 0, tokenizer, bidirectional=True)
    d = model.config.hidden_size
    add_modules(tmp_path, (d, 40, 24), np.random.default_rng(0))
    dense = tmp_path / "3_Dense"
    if change == "bias":
        tensors = load_file(dense / "model.safetensors")
        save_file(tensors | {"linear.bias": np.zeros(24, np.float32)}, dense / "model.safetensors")
    elif change == "activation":
        config = json.loads((dense / "config.json").read_text())
        config["activation_function"] = "torch.nn.modules.activation.Tanh"
        (dense / "config.json").write_text(json.dumps(config))
    else:
        save_file({"linear.weight": np.zeros((24, 39), np.float32)}, dense / "model.safetensors")
    with pytest.raises(hf.HubError, match="Dense"):
        hf.load(tmp_path)


def test_bfloat16_is_close_to_float32(tmp_path, tokenizer):
    write_model(tmp_path, 3, tokenizer, bidirectional=True)
    arch = hf.read_architecture(tmp_path)
    params = hf.load(tmp_path)
    rows = pack(make_texts(3), [[i] for i in range(len(LENGTHS))], arch, tokenizer)
    fine = embed_rows(arch, params, rows)[:, 0]
    apply = jax.jit(lambda p, x: build(arch, jnp.bfloat16).apply({"params": p}, x))
    coarse = np.asarray(apply(params, mesh.to_global(rows)))[:, 0]
    cosine = (fine * coarse).sum(-1) / np.linalg.norm(fine, axis=-1) / np.linalg.norm(coarse, axis=-1)
    assert cosine.min() > 0.999
