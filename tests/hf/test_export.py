"""Out and back: bit-exact weights, and the same vectors from sentence-transformers, for every kind of input."""

import json

import jax
import numpy as np
import pytest
from PIL import Image as Pillow

from embed.training.metadata import metadata_for
from embed.training.weights import load_params, save_params

torch = pytest.importorskip("torch", reason="needs the extra [hf]")
pytest.importorskip("torchvision", reason="the processors of transformers need it")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra [hf]")

from reference import KINDS, written  # noqa: E402

from embed import hf  # noqa: E402
from embed.data.preprocess import Preprocessor  # noqa: E402
from embed.embedder import Embedder  # noqa: E402
from embed.model.build import build  # noqa: E402
from embed.model.encoder import init_params  # noqa: E402
from embed.model.presets import PRESETS  # noqa: E402
from embed.training.published import export_checkpoint, import_checkpoint  # noqa: E402


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_import_export_import_keeps_every_bit(tmp_path, tokenizer, kind, monkeypatch):
    monkeypatch.setattr("embed.hf.export.SHARD", 200_000)  # so that there are several files
    model = written(tmp_path / "theirs", kind, 1, tokenizer)
    tokenizer.save(tmp_path / "theirs" / "tokenizer.json")
    import_checkpoint(tmp_path / "theirs", tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "ours")
    first = load_params(tmp_path / "run")
    assert hf.read_architecture(tmp_path / "ours") == hf.read_architecture(tmp_path / "theirs")
    same(first, hf.load(tmp_path / "ours"))
    # transformers finds every tensor in its place, none missing, none left over, with the bits it wrote itself.
    again, report = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    for name, leaf in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], leaf, rtol=0, atol=0, equal_nan=True)


def made(tmp_path, name, tokenizer):
    """A checkpoint of a preset with random weights, and what it is exported to."""
    arch = PRESETS[name]
    params = init_params(build(arch), jax.random.key(1))
    noise = np.random.default_rng(0)

    def shaken(path, leaf):
        if {key.key for key in path} & {"query_norm", "key_norm"}:
            leaf = leaf / 2  # tempered attention, as in the parity tests: sharp one magnifies how pixels are rounded
        scale = {"scale": 0.2, "scalar": 0.1, "relative": 0.1, "per_dim_scale": 0.1, "bias": 0.1, "position": 0.02}
        return np.asarray(leaf + scale.get(path[-1].key, 0) * noise.standard_normal(leaf.shape), np.float32)

    params = jax.tree_util.tree_map_with_path(shaken, params)
    preprocessor = Preprocessor(tokenizer, arch.media)
    save_params(tmp_path / "run", params, metadata_for(arch, preprocessor), tokenizer)
    export_checkpoint(tmp_path / "run", tmp_path / "out")
    return Embedder.load(tmp_path / "run"), tmp_path / "out"


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize("name", [f"tiny_{kind}" for kind in KINDS])
def test_sentence_transformers_gives_the_same_vectors(tmp_path, tokenizer, name):
    embedder, folder = made(tmp_path, name, tokenizer)
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    rng = np.random.default_rng(1)
    images = [Pillow.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for h, w in ((40, 64), (90, 30))]
    sounds = [rng.uniform(-0.5, 0.5, n).astype(np.float32) for n in (16_000, 7_000)]
    videos = rng.integers(0, 256, (2, 3, 48, 64, 3), np.uint8)
    films = [{"fps": 1.0, "total_num_frames": 3, "duration": 3.0, "frames_indices": [0, 1, 2]}] * 2

    def close(ours, theirs):
        found = cosine(embedder.embed(ours), np.asarray(theirs, np.float32))
        assert found.min() >= 0.9999, found

    texts = ["a red square on the left", "def f(x): return x", "größer"]
    close(texts, model.encode(texts))
    query = embedder.embed(texts, task="code retrieval")
    assert cosine(query, model.encode(texts, prompt_name="code retrieval")).min() >= 0.9999
    close(images, model.encode(images))
    close([(s, 16_000) for s in sounds], model.encode([{"array": s, "sampling_rate": 16_000} for s in sounds]))
    theirs = [{"array": v.transpose(0, 3, 1, 2), "video_metadata": m} for v, m in zip(videos, films, strict=True)]
    close(list(videos), model.encode(theirs))

    def message(*parts):
        kinds = {str: "text", Pillow.Image: "image"}
        content = []
        for part in parts:
            kind = next((kind for cls, kind in kinds.items() if isinstance(part, cls)), "audio")
            content.append({"type": kind, kind: part})
        return [{"role": "user", "content": content}]

    mixed = [["left ", images[0], " right"], [images[1], "red", images[0]]]
    close(mixed, model.encode([message(*parts) for parts in mixed]))


def test_other_models_and_full_folders_are_refused(tmp_path, tokenizer):
    arch = PRESETS["tiny"]
    params = init_params(build(arch), jax.random.key(1))
    described = metadata_for(arch, Preprocessor(tokenizer, arch.media))
    save_params(tmp_path / "run", params, described, tokenizer)
    with pytest.raises(hf.HubError, match="trained with 16 soft tokens"):
        export_checkpoint(tmp_path / "run", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text(json.dumps({}))
    with pytest.raises(FileExistsError, match="not empty"):
        export_checkpoint(tmp_path / "run", tmp_path / "out")
