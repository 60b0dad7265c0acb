"""Soups: means are exact, the greedy soup keeps what helps, and only checkpoints of one form are averaged."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from conftest import ARCH

from embed.data import tokenizer as tokenizers
from embed.model.build import build
from embed.model.params import param_structs, to_shape_dtype
from embed.training import checkpoint, soup
from embed.training.metadata import load_preprocessor, metadata_for, read_architecture, read_lineage, read_metadata
from embed.training.weights import load_params


def save(run: pathlib.Path, preprocessor, value: float, arch=ARCH, step: int = 1, extra: bool = False) -> pathlib.Path:
    """A checkpoint whose parameters are all `value`, with a ramp so that no two leaves are alike."""
    params = jax.tree.map(
        lambda leaf: np.full(leaf.shape, value, np.float32) * np.arange(leaf.shape[-1], dtype=np.float32),
        param_structs(build(arch)),
    )
    if extra:
        params["more"] = np.ones(2, np.float32)
    run.mkdir(exist_ok=True)
    preprocessor.tokenizer.save(run / "tokenizer.json")
    with checkpoint.checkpointer(run, every=1, keep=9) as writer:
        writer.save(step, {"encoder": params}, custom_metadata=metadata_for(arch, preprocessor), force=True)
    return run


def equal(a: dict, b: dict) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b))
    )


def level(params: dict) -> float:
    return float(params["backbone"]["final_norm"]["scale"][1])


@pytest.fixture
def parents(tmp_path, preprocessor) -> list[pathlib.Path]:
    return [save(tmp_path / f"run{value}", preprocessor, value) for value in (1, 2, 6)]


def test_soup_of_one_is_that_one(parents):
    assert equal(soup.average(parents[1:2], [0.3]), load_params(parents[1]))


def test_uniform_is_the_mean_and_weights_are_normalised(parents):
    assert level(soup.average(parents, [1.0] * 3)) == pytest.approx(3.0)
    assert equal(soup.average(parents[1:], [1.0, 1.0]), soup.average(parents[1:], [8.0, 8.0]))
    weighted = soup.average(parents, [2.0, 1.0, 1.0])
    assert level(weighted) == 2.5
    assert np.array_equal(weighted["vocabulary"], np.broadcast_to(2.5 * np.arange(ARCH.d_model), (512, ARCH.d_model)))


def test_steps_of_one_run_are_parents_too(tmp_path, preprocessor):
    run = save(tmp_path / "run", preprocessor, 1.0, step=1)
    save(run, preprocessor, 3.0, step=2)
    steps = [run / "checkpoints" / "1", run / "checkpoints" / "2"]
    assert level(soup.average(steps, [1.0, 1.0])) == 2.0
    assert level(load_params(run)) == 3.0


@pytest.mark.parametrize("weights", [[], [1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 2.0, -1.0]])
def test_weights_that_are_no_weights(parents, weights):
    with pytest.raises(soup.SoupError, match="3 parents need as many weights, all above zero"):
        soup.average(parents, weights)


def test_greedy_keeps_only_what_helps(parents):
    one, two, six = parents

    def score(params: dict) -> float:
        return -abs(level(params) - 1.6)

    params, kept, trials = soup.greedy([six, one, two], score)
    assert kept == [two, one] and level(params) == 1.5
    assert [trial["parents"] for trial in trials[3:]] == [[str(two), str(one)], [str(two), str(one), str(six)]]
    assert [trial["score"] for trial in trials[:3]] == pytest.approx([-4.4, -0.6, -0.4])


def test_greedy_keeps_the_best_alone_where_nothing_helps(parents):
    params, kept, _ = soup.greedy(parents, lambda params: -abs(level(params) - 6))
    assert kept == parents[2:] and equal(params, load_params(parents[2]))


def test_parents_of_another_form_are_refused(tmp_path, parents, preprocessor):
    wider = save(tmp_path / "wider", preprocessor, 1.0, arch=dataclasses.replace(ARCH, d_ff=128))
    words = tokenizers.train_tokenizer(["other words than those, in another order"] * 20, ARCH.vocab_size)
    foreign = save(tmp_path / "foreign", dataclasses.replace(preprocessor, tokenizer=words), 1.0)
    for other, message in [
        (wider, "differ in architecture: d_ff"),
        (foreign, "differ in input_spec: tokenizer"),
    ]:
        with pytest.raises(soup.SoupError, match=message) as error:
            soup.average([parents[0], other], [1.0, 1.0])
        assert str(parents[0]) in str(error.value) and str(other) in str(error.value)
    larger = save(tmp_path / "larger", preprocessor, 1.0, extra=True)
    with pytest.raises(checkpoint.CheckpointError, match=f"1 parameters of {larger} are not the encoder's.*more"):
        soup.average([parents[0], larger], [1.0, 1.0])


def test_a_saved_soup_is_read_like_a_run(tmp_path, parents, preprocessor):
    folder = tmp_path / "soup"
    soup.save(folder, soup.average(parents[:2], [1.0, 1.0]), parents[:2], weights=[1.0, 1.0], score=0.5)
    params = soup.average(parents, [1.0] * 3)
    soup.save(folder, params, parents, weights=[1.0] * 3, score=0.7)  # again: the last one stands
    assert checkpoint.saved_steps(folder) == [0]
    assert equal(load_params(folder), params)
    assert equal(jax.tree.map(np.asarray, load_params(folder, to_shape_dtype(params))), params)
    meta = read_metadata(folder)
    assert meta["soup"] == {"parents": [str(p) for p in parents], "weights": [1.0] * 3, "score": 0.7}
    assert read_architecture(meta) == ARCH
    assert load_preprocessor(folder).input_spec() == preprocessor.input_spec()
    assert level(soup.average([folder, parents[0]], [1.0, 1.0])) == pytest.approx(2.0)
    said = read_lineage(folder)
    assert said["checkpoint"] == "soup" and said["dev score"] == "0.7000"
    assert said["from"] == " + ".join(f"1 × {parent.name}" for parent in parents)
    steps = [parents[0] / "checkpoints" / str(step) for step in checkpoint.saved_steps(parents[0])]
    soup.save(folder, params, steps, weights=[2.0] * len(steps))
    assert read_lineage(folder)["from"] == f"2 × {parents[0].name}/{checkpoint.saved_steps(parents[0])[0]}"
    assert read_lineage(parents[0])["from"] == "the seed"
