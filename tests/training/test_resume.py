"""A run that is killed and started again ends bit for bit like an uninterrupted one; a changed run is refused.

Run as a program, this file is the run that the tests kill.
"""

import dataclasses
import io
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH
from PIL import Image as Pillow

from embed.batch import Dropout, MediaFormat
from embed.data import tokenizer as tokenizers
from embed.data.budget import Budget
from embed.data.modalities import Image, Text
from embed.data.preprocess import Preprocessor
from embed.data.records import Record
from embed.data.sources import ArrayRecordSource, read_records
from embed.data.tasks import Task
from embed.data.writing import write_records
from embed.distributed.mesh import make_mesh
from embed.losses.contrastive import contrastive_loss
from embed.model import params as model_params
from embed.model.build import build
from embed.model.encoder import encode_by_microbatch, encode_pairs
from embed.model.presets import PRESETS
from embed.training import checkpoint, loop, optim
from embed.training import start as start_state
from embed.training.metadata import check_input_spec, load_preprocessor, metadata_for, read_architecture, read_metadata
from embed.training.weights import load_params

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 24
SAVE = 3
TASKS = (
    Task("one", 8, 2.0, Budget(16), Budget(8, 1, 4)),
    Task("two", 8, 1.0, Budget(16), Budget(8, 1, 4), prompt="search result", prompt_dropout=0.5),
)


class Slow(ArrayRecordSource):
    """Slow records, so that the run can be killed in the middle."""

    def __getitem__(self, index: int) -> Record:
        time.sleep(0.01)
        return super().__getitem__(index)


def fit(
    run: pathlib.Path,
    data: pathlib.Path,
    *,
    steps: int,
    seed: int = 3,
    tasks=TASKS,
    preprocessor=None,
    loss=None,
    **more,
):
    encoder = build(ARCH, remat=False)
    words = tokenizers.Tokenizer.load(data / "tokenizer.json")
    preprocessor = preprocessor or Preprocessor(words, ARCH.media)

    def contrastive(params, pairs, candidates, key):
        def embed(inputs):
            return encode_by_microbatch(lambda rows: encoder.apply({"params": params.encoder}, rows), inputs, 4)

        sides = encode_pairs(embed, pairs, Dropout(key, 0.1))
        return contrastive_loss(*sides, pairs, temperature=0.05, widths=ARCH.matryoshka_dims, candidates=candidates)

    sources = [Slow(data / "train.array_record") for _ in tasks]
    optimizer = optim.adamw(1e-2, warmup=2, steps=STEPS)
    plan = loop.Run(
        encoder,
        tasks,
        loss or contrastive,
        optimizer,
        steps=steps,
        seed=seed,
        data=data,
        folder=run,
        loop=loop.LoopConfig(save=SAVE, keep=3),
        **more,
    )
    return loop.fit(plan, preprocessor, sources)


def cheap(params, pairs, candidates, key):
    """A loss that compiles fast, for tests that need any loss."""
    return jnp.sum(jnp.square(params.encoder["vocabulary"])), {"accuracy": jnp.float32(0)}


def start(data: pathlib.Path, run: pathlib.Path) -> subprocess.Popen:
    environment = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "JAX_COMPILATION_CACHE_DIR": str(data / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with (run.parent / f"{run.name}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, __file__, str(data), str(run)], env=os.environ | environment, stdout=log, stderr=log
        )


def finish(process: subprocess.Popen, run: pathlib.Path) -> dict[str, np.ndarray]:
    assert process.wait(300) == 0, (run.parent / f"{run.name}.log").read_text()[-3000:]
    return dict(np.load(run / "final.npz"))


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Pillow.new("RGB", (16, 16), (shade, 40, 200)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory, tokenizer) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("resume")
    images = [Image(png(shade)) for shade in range(0, 240, 10)]
    pairs = zip(images, images[5:] + images[:5], strict=True)
    write_records(
        folder / "train.array_record",
        [Record(str(i), (Text(f"a red square {i}"),), (a,), ((b,),)) for i, (a, b) in enumerate(pairs)],
    )
    tokenizer.save(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(data) -> dict[str, np.ndarray]:
    return finish(start(data, data / "whole"), data / "whole")


@pytest.fixture(scope="module")
def short(data) -> pathlib.Path:
    with jax.set_mesh(make_mesh((1, 1, 1))):
        fit(data / "short", data, steps=1, loss=cheap)
    return data / "short"


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])  # test_recipe.py sends SIGINT
def test_a_killed_run_goes_on_bit_for_bit(data, uninterrupted, sign):
    run = data / f"stopped_by_{sign.name}"
    process = start(data, run)
    while process.poll() is None and len(checkpoint.saved_steps(run)) < 2:
        time.sleep(0.005)
    process.send_signal(sign)
    assert process.wait(60) != 0
    reached = checkpoint.saved_steps(run)[-1]
    assert SAVE <= reached < STEPS and not (run / "final.npz").exists()

    resumed = finish(start(data, run), run)
    assert f"at step {reached}" in (data / f"{run.name}.log").read_text()
    assert resumed.keys() == uninterrupted.keys() and any("opt" in name for name in resumed)
    different = [name for name, leaf in resumed.items() if not np.array_equal(leaf, uninterrupted[name])]
    assert not different
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    whole = [json.loads(line) for line in (data / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert [(row["task"], row["loss"]) for row in rows] == [(row["task"], row["loss"]) for row in whole]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"tasks": (dataclasses.replace(TASKS[0], weight=3.0), TASKS[1])}, r"tasks\[0\]\.weight was 2\.0 and is 3\.0"),
        ({"tasks": TASKS[:1], "seed": 4}, r"(?s)tasks was .*seed was 3 and is 4"),
    ],
)
def test_a_changed_run_is_refused_by_what_changed(data, short, change, named):
    with pytest.raises(checkpoint.CheckpointError, match=named):
        fit(short, data, steps=2, **change)


def written(folder: pathlib.Path, data: pathlib.Path, records: list[Record]) -> pathlib.Path:
    """The data folder with other records."""
    folder.mkdir()
    shutil.copy(data / "tokenizer.json", folder)
    write_records(folder / "train.array_record", records)
    return folder


def test_other_data_are_refused_by_the_name_of_their_dataset(data, short, tmp_path):
    records = list(read_records(ArrayRecordSource(data / "train.array_record")))
    edited = [*records[:-1], dataclasses.replace(records[-1], query=(Text("a red square 32"),))]
    swapped = [records[1], records[0], *records[2:]]
    before = (short / "metrics.jsonl").read_bytes()
    for name, others in {"edited": edited, "swapped": swapped}.items():
        with pytest.raises(checkpoint.CheckpointError, match=r"data\.one\.fingerprint was '\w{32}' and is '\w{32}'"):
            fit(short, written(tmp_path / name, data, others), steps=2, loss=cheap)
    with pytest.raises(checkpoint.CheckpointError, match=r"data\.two\.records was 24 and is 25"):
        fit(short, written(tmp_path / "grown", data, [*records, records[0]]), steps=2, loss=cheap)
    assert (short / "metrics.jsonl").read_bytes() == before
    assert read_metadata(short)["data"]["one"]["records"] == 24


def test_a_copy_of_the_data_and_a_checkpoint_that_does_not_know_its_own_go_on(data, short, tmp_path, caplog):
    records = list(read_records(ArrayRecordSource(data / "train.array_record")))
    copy = written(tmp_path / "copy", data, records)
    for run in (tmp_path / "new", tmp_path / "old"):
        shutil.copytree(short, run)
    assert int(fit(tmp_path / "new", copy, steps=2, loss=cheap).step) == 2
    assert "does not name its training data" not in caplog.text
    file = tmp_path / "old" / "checkpoints" / "1" / "_CHECKPOINT_METADATA"
    described = json.loads(file.read_text())
    del described["custom_metadata"]["data"]
    file.write_text(json.dumps(described))
    assert int(fit(tmp_path / "old", copy, steps=2, loss=cheap).step) == 2
    assert "checkpoints/1 does not name its training data" in caplog.text
    assert read_metadata(tmp_path / "old")["data"]["one"]["records"] == 24


def other_preprocessor() -> Preprocessor:
    words = tokenizers.train_tokenizer(["other words than those, in another order"] * 20, ARCH.vocab_size)
    return Preprocessor(words, ARCH.media)


def test_another_tokenizer_is_refused_in_a_run_and_as_init(data, short, tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=r"other inputs: tokenizer"):
        fit(tmp_path / "new", data, steps=1, preprocessor=other_preprocessor(), init=short)
    kept = (short / "tokenizer.json").read_bytes()
    with pytest.raises(checkpoint.CheckpointError, match=r"other inputs: tokenizer"):
        fit(short, data, steps=2, preprocessor=other_preprocessor())
    assert (short / "tokenizer.json").read_bytes() == kept


def test_other_media_are_refused_by_what_differs(short, preprocessor):
    changed = dataclasses.replace(ARCH.media, patch_size=16, timestamps=True)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"media.patch_size: checkpoint 8, here 16; media.timestamps: ch"
    ):
        check_input_spec(short, Preprocessor(load_preprocessor(short).tokenizer, changed))
    assert load_preprocessor(short).media == ARCH.media


@pytest.mark.parametrize("arch", [ARCH, *PRESETS.values()])
def test_an_architecture_comes_back_from_a_checkpoint(preprocessor, arch):
    described = metadata_for(arch, preprocessor)
    assert read_architecture(described) == arch
    del described["architecture"]["media"]["clip_tokens"]  # as if the field were newer than the checkpoint
    assert read_architecture(described).media.clip_tokens == MediaFormat.clip_tokens
    for fields in ({"patch_sise": 8}, {"patch_size": None}):
        media = {**described["architecture"]["media"], **fields}
        wrong = {name: value for name, value in media.items() if value is not None}
        with pytest.raises(
            checkpoint.CheckpointError, match=f"another version of embed: MediaFormat differs in {next(iter(fields))}"
        ):
            read_architecture({"architecture": {**described["architecture"], "media": wrong}})


def test_init_gives_the_parameters_and_nothing_else(data, short, tmp_path, monkeypatch):
    def shapes_alone(encoder, key):
        assert isinstance(key, jax.core.Tracer)  # nothing random is made, to be replaced
        return made(encoder, key)

    made = model_params.init_params
    for module in (model_params, start_state):
        monkeypatch.setattr(module, "init_params", shapes_alone)
    state = fit(tmp_path / "new", data, steps=0, init=short)
    loaded = load_params(short)
    assert all(map(np.array_equal, jax.tree.leaves(state.encoder), jax.tree.leaves(loaded)))
    assert int(state.step) == 0 and all(
        not jnp.any(leaf) for leaf in jax.tree.leaves(state.optimizer.inner_state[1][0].mu)
    )


def main(data: pathlib.Path, run: pathlib.Path) -> None:
    logging.basicConfig(level=logging.INFO, force=True)
    with jax.set_mesh(make_mesh((1, 1, 1))):
        state = fit(run, data, steps=STEPS)
    leaves, _ = jax.tree_util.tree_flatten_with_path(vars(state))
    np.savez(run / "final.npz", **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
