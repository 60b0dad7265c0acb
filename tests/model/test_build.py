"""The encoder that an architecture names is the one that is trained, saved, loaded, averaged, scored and indexed; code
outside embed is imported only where the caller trusts it."""

import dataclasses
import sys
import textwrap

import jax
import numpy as np
import pytest
from conftest import ARCH

from embed import __main__ as command
from embed import hf
from embed.data.budget import Budget
from embed.data.modalities import Text
from embed.data.records import Record
from embed.data.tasks import Task
from embed.embedder import Embedder
from embed.eval import suite as evaluate
from embed.eval.benchmarks import from_pairs
from embed.losses.contrastive import contrastive_loss
from embed.model.build import EncoderError, build, check_encoder, find_class
from embed.model.config import Architecture
from embed.model.encoder import Encoder, encode_pairs, init_params
from embed.training import loop, optim, soup
from embed.training.checkpoint import CheckpointError
from embed.training.metadata import read_metadata
from embed.training.published import export_checkpoint

SMALL = dataclasses.replace(ARCH, layer_groups=1)  # little to compile
LATE_FUSION = dataclasses.replace(SMALL, encoder="embed.model.late_fusion:LateFusion")
TASK = Task("words", 4, 1.0, Budget(12), Budget(12))
TEXTS = ["red square", "def f(x): return x", "größer", "on the left of x"]
RECORDS = [Record(str(i), (Text(text),), (Text(f"{text} {i}"),)) for i, text in enumerate(TEXTS)]

MINE = '''
    """A user's encoder: the one of embed, with its vectors reversed."""

    import flax.linen as nn

    from embed.model.build import EncoderModule
    from embed.model.encoder import Encoder


    class Reversed(EncoderModule):
        @nn.compact
        def __call__(self, inputs):
            return Encoder(self.arch, self.dtype, self.remat, self.unroll, name="inner")(inputs)[..., ::-1]
'''


def train(folder, preprocessor, arch, trust=(), seed=0):
    """Two steps of contrastive training; the encoder and its parameters."""
    encoder = build(arch, trust=trust)

    def loss(params, pairs, candidates, key):
        sides = encode_pairs(lambda inputs: encoder.apply({"params": params.encoder}, inputs), pairs)
        return contrastive_loss(*sides, pairs, temperature=0.05, widths=arch.matryoshka_dims, candidates=candidates)

    optimizer = optim.adamw(1e-2, warmup=0, steps=10)
    run = loop.Run(encoder, [TASK], loss, optimizer, steps=2, seed=seed, data=folder, folder=folder)
    return encoder, loop.fit(run, preprocessor, [RECORDS]).encoder


def cosine(a, b):
    return np.sum(a * b, axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize(
    "arch",
    [
        dataclasses.replace(SMALL, pooling="last"),
        dataclasses.replace(SMALL, pooling="max", attention="causal"),
        LATE_FUSION,
    ],
    ids=["last", "causal max", "late fusion"],
)
def test_a_fork_is_loaded_scored_averaged_and_indexed_as_it_was_trained(tmp_path, preprocessor, arch):
    encoder, params = train(tmp_path / "run", preprocessor, arch)
    saved = read_metadata(tmp_path / "run")["architecture"]
    assert (saved["encoder"], saved["pooling"], saved["attention"]) == (arch.encoder, arch.pooling, arch.attention)

    embedder = Embedder.load(tmp_path / "run")
    expected = Embedder(encoder, params, preprocessor).embed(TEXTS)
    assert embedder.encoder == build(arch) and np.array_equal(embedder.embed(TEXTS), expected)

    if arch.encoder == Architecture.encoder:  # with the default pooling these are other vectors
        plain = Embedder(build(SMALL), params, preprocessor).embed(TEXTS)
        assert cosine(plain, expected).max() < 0.99
        train(tmp_path / "plain", preprocessor, SMALL)
        with pytest.raises(CheckpointError, match=r"another architecture: pooling: mean, not"):
            embedder.load_params(tmp_path / "plain")

    suite = [*evaluate.prepare_benchmark(embedder, *from_pairs("words", RECORDS))]
    vectors = [evaluate.encode_suite(embedder, weights, suite) for weights in (embedder.params, params)]
    loaded, trained = (evaluate.evaluate(suite, one, (32,)) for one in vectors)
    assert loaded == trained and len(loaded) == 2

    train(tmp_path / "other", preprocessor, arch, seed=1)
    parents = [tmp_path / "run", tmp_path / "other"]
    soup.save(tmp_path / "soup", soup.average(parents, [1.0, 1.0]), parents)
    mean = Embedder.load(tmp_path / "soup")
    assert mean.encoder == build(arch) and np.isfinite(mean.embed(TEXTS)).all()

    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text(TEXTS[0])
    out = tmp_path / "index.npz"
    assert command.main(["index", str(tmp_path / "run"), str(tmp_path / "files"), "--out", str(out)]) == 0
    vectors = np.load(out)["vectors"]
    np.testing.assert_allclose(vectors, embedder.embed([tmp_path / "files" / "a.txt"], task="document"), atol=1e-6)


def test_soups_are_of_one_pooling(tmp_path, preprocessor):
    parents = [tmp_path / "mean", tmp_path / "last"]
    for path in parents:
        train(path, preprocessor, dataclasses.replace(SMALL, pooling=path.name))
    with pytest.raises(soup.SoupError, match="differ in architecture: pooling"):
        soup.average(parents, [1.0, 1.0])


@pytest.fixture
def my_encoder(tmp_path, monkeypatch):
    """A user's file with an encoder; its import path."""
    (tmp_path / "my_encoders.py").write_text(textwrap.dedent(MINE))
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_encoders:Reversed"
    sys.modules.pop("my_encoders", None)


def test_a_users_encoder_works_everywhere_with_trust_and_is_not_imported_without(tmp_path, preprocessor, my_encoder):
    arch = dataclasses.replace(SMALL, encoder=my_encoder)
    run = tmp_path / "run"
    encoder, params = train(run, preprocessor, arch, trust=[my_encoder])
    expected = Embedder(encoder, params, preprocessor).embed(TEXTS)
    train(tmp_path / "other", preprocessor, arch, trust=[my_encoder], seed=1)
    parents = [run, tmp_path / "other"]
    soup.save(tmp_path / "soup", soup.average(parents, [1.0, 1.0], [my_encoder]), parents)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text(TEXTS[0])

    for path in (run, tmp_path / "soup"):
        del sys.modules["my_encoders"]
        for trust in ((), ("my_encoders:Other",), ("os:system",)):
            with pytest.raises(EncoderError, match=rf"{my_encoder} is code outside embed.*trust=\(\"{my_encoder}\",\)"):
                Embedder.load(path, trust=trust)
        with pytest.raises(EncoderError, match="not imported"):
            soup.average([path], [1.0])
        index = ["index", str(path), str(tmp_path / "files"), "--out", str(tmp_path / f"{path.name}.npz")]
        assert command.main(index) != 0
        assert "my_encoders" not in sys.modules
        assert command.main([*index, "--trust", my_encoder]) == 0
        assert len(np.load(tmp_path / f"{path.name}.npz")["vectors"]) == 1
    assert np.array_equal(Embedder.load(run, trust=[my_encoder]).embed(TEXTS), expected)
    with pytest.raises(hf.HubError, match=f"encoder {my_encoder} cannot be exported"):
        export_checkpoint(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("os:system", "os:system is code outside embed, and was not imported"),
        ("embed.model.../../os:system", "not an import path"),
        ("embed.model.encoder:__import__('os').system", "not an import path"),
        ("embed.model.encoder:Encoder.apply", "not an import path"),
        ("embed..model:Encoder", "not an import path"),
        ("embed.model.encoder", "not an import path"),
        ("../embed:Encoder", "not an import path"),
        ("embedder_of_mine:Encoder", "is code outside embed"),
        ("embed.model.encoder:np", "defines no subclass of EncoderModule named np"),
        ("embed.model.encoder:encode", "defines no subclass of EncoderModule named encode"),
        ("embed.model.late_fusion:Encoder", "defines no subclass of EncoderModule named Encoder"),  # imported there
        ("embed.model.build:EncoderModule", "is abstract"),
        ("embed.nothing:Encoder", "cannot be imported: No module named 'embed.nothing'"),
        (7, "not an import path"),
    ],
)
def test_a_path_that_names_no_encoder_is_refused(path, message):
    before = set(sys.modules)
    with pytest.raises(EncoderError) as error:
        build(dataclasses.replace(SMALL, encoder=path))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] != "embed"}


def test_an_encoder_of_another_class_than_its_architecture_names_does_not_train(tmp_path, preprocessor):
    encoder = Encoder(LATE_FUSION)
    with pytest.raises(EncoderError, match=r"the encoder is embed.model.encoder:Encoder, but its architecture names"):
        check_encoder(encoder)
    run = loop.Run(encoder, [TASK], None, optim.adamw(1e-2, warmup=0, steps=10), 2, 0, data=tmp_path, folder=tmp_path)
    with pytest.raises(EncoderError):
        loop.fit(run, preprocessor, [RECORDS])
    check_encoder(find_class(LATE_FUSION.encoder)(LATE_FUSION))


@pytest.mark.parametrize("field", ["pooling", "attention"])
def test_an_unknown_pooling_or_direction_is_refused_with_the_choices(field):
    choices = {"pooling": "mean, first, last, max", "attention": "bidirectional, causal"}
    encoder = build(dataclasses.replace(SMALL, **{field: "median"}))
    with pytest.raises(ValueError, match=rf"{field} 'median': choose one of {choices[field]}"):
        jax.eval_shape(lambda: init_params(encoder, jax.random.key(0)))
