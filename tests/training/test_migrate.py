"""Checkpoints of version 0.1, written here as it wrote them, become today's: same vectors, and the run continues."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH
from test_loop import GOOD, Records, same

from embed.embedder import Embedder
from embed.losses.temperature import init_log_temperature
from embed.model.build import build
from embed.training import checkpoint, loop, optim
from embed.training.metadata import read_architecture, read_metadata
from embed.training.migrate import migrate, migrate_metadata, migrate_state
from embed.training.weights import load_params

ATTENTION = {"heads": 4, "groups": 2, "head_dim": 8, "theta": 1e4, "window": 4, "rotary": 1.0, "key_is_value": False}
MEDIA = {
    "patch": 8, "side": 64, "image_patches": 16, "frame_patches": 16, "timestamps": False, "audio_frame": 640,
    "mel": 0, "clip": 4500,
}  # fmt: skip
ARCHITECTURE = {
    "vocabulary": 512, "width": 32, "hidden": 64, "groups": 2, "locals": 1, "local_attention": ATTENTION,
    "global_attention": ATTENTION | {"groups": 1, "head_dim": 16, "theta": 1e6, "window": 0, "rotary": 0.5},
    "media": MEDIA, "widths": [8, 16, 32], "per_layer": 8, "per_layer_vocabulary": 0, "shared_groups": 0,
    "shared_hidden": 0, "vision": None, "audio": None,
}  # fmt: skip
CONTRACT = {
    "tokenizer": "", "media": MEDIA, "sample_rate": 16000, "frames_per_second": 1,
    "query_prompt": "task: {task} | query: {text}", "document_prompt": "title: {title} | text: {text}",
    "pooling": "mean", "widths": [8, 16, 32],
}  # fmt: skip
BUDGET = {"tokens": 8, "images": 0, "patches": 0, "clips": 0, "frames": 0}
TASK = {
    "name": "good", "batch": 4, "rate": 1.0, "query": BUDGET, "target": BUDGET, "prompt": None, "drop": 0.0,
    "negatives": 0, "packing": None,
    "candidates": {"in_batch": True, "shared_negatives": False, "margin": None, "both_directions": False},
}  # fmt: skip
TOWERS = {
    "vision": {
        "width": 768, "hidden": 3072, "layers": 16, "pool": 3, "positions": 10240, "clipped": True,
        "standardized": False, "attention": ATTENTION,
    },
    "audio": {
        "width": 1024, "layers": 12, "heads": 8, "channels": [128, 32], "kernel": 5, "chunk": 12, "left": 13,
        "right": 0, "cap": 50.0, "residual": 0.5, "bound": 1e10, "out": 1536, "clipped": True,
    },
}  # fmt: skip


class Warm:
    """A loss with a temperature."""

    def init(self, key):
        return {"scale": init_log_temperature(0.5)}

    def __call__(self, params, pairs, candidates, key):
        value = sum(jnp.mean(jnp.square(leaf - 3)) for leaf in jax.tree.leaves(params.encoder))
        return value * jnp.exp(params.loss["scale"]), {}


def fit(folder, preprocessor, steps):
    optimizer = optim.adamw(1e-2, warmup=1, steps=100)
    run = loop.Run(
        build(ARCH), [GOOD], Warm(), optimizer, steps, seed=0, data=folder, folder=folder,
        loop=loop.LoopConfig(save=1, keep=9),
    )  # fmt: skip
    return loop.fit(run, preprocessor, [Records()])


def with_temperature(params) -> dict:
    """Params as version 0.1 had them: one tree."""
    return params.encoder | {"temperature": params.loss}


def write_old(folder, state, metadata, tokenizer) -> None:
    """Write a run of version 0.1 at the step of `state`."""
    is_params = lambda node: hasattr(node, "encoder") and hasattr(node, "loss")  # noqa: E731
    merged = jax.tree.map(
        lambda node: with_temperature(node) if is_params(node) else node, state.optimizer, is_leaf=is_params
    )
    old = {"step": state.step, "params": with_temperature(state.params), "opt": merged}
    with checkpoint.checkpointer(folder, every=1, keep=9) as saver:
        saver.save(int(state.step), old, custom_metadata=metadata, force=True)
    tokenizer.save(folder / "tokenizer.json")


@pytest.fixture
def old_run(tmp_path, preprocessor):
    """A run of two steps, and the same one as version 0.1 wrote it."""
    state = fit(tmp_path / "run", preprocessor, 2)
    metadata = {key: value for key, value in read_metadata(tmp_path / "run").items() if key != "input_spec"}
    del metadata["loss_parameters"]
    metadata |= {"architecture": ARCHITECTURE, "tasks": [TASK]}
    metadata |= {"contract": CONTRACT | {"tokenizer": preprocessor.tokenizer.hash}}
    write_old(tmp_path / "old", state, metadata, preprocessor.tokenizer)
    rows = [{"step": 0, "useful": 0.5}, {"step": 1, "useful": 0.25}]
    (tmp_path / "old" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "old"


def test_a_migrated_run_is_the_same_encoder_and_continues_bit_for_bit(tmp_path, preprocessor, old_run):
    migrate(old_run, tmp_path / "new")
    vectors = [Embedder.load(tmp_path / name).embed(["a red square", "größer"]) for name in ("run", "new")]
    assert np.array_equal(*vectors)
    assert read_metadata(tmp_path / "new") == read_metadata(tmp_path / "run")
    rows = (tmp_path / "new" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["productive_seconds"] for row in rows] == [0.5, 0.25]
    straight, resumed = (fit(tmp_path / name, preprocessor, 4) for name in ("run", "new"))
    assert all(same(straight, resumed)) and int(resumed.step) == 4


def test_an_old_run_is_refused_by_one_line_that_names_the_command(tmp_path, preprocessor, old_run):
    message = f"old was made by embed 0.1: convert it with `python -m embed migrate {old_run} NEW`"
    for read in (Embedder.load, load_params, read_metadata):
        with pytest.raises(checkpoint.CheckpointError, match=message) as error:
            read(old_run)
        assert "\n" not in str(error.value)


def test_what_cannot_be_migrated_is_refused(tmp_path, preprocessor, old_run):
    with pytest.raises(checkpoint.CheckpointError, match="run/checkpoints/1 needs no migration"):
        migrate(tmp_path / "run", tmp_path / "new")
    with pytest.raises(checkpoint.CheckpointError, match="run has checkpoints already; give another folder"):
        migrate(old_run, tmp_path / "run")
    with pytest.raises(checkpoint.CheckpointError, match="no finished checkpoint"):
        migrate(tmp_path / "nothing", tmp_path / "new")


def test_the_towers_fields_and_parameters_get_their_names():
    layer = {"start": {"pre": 1}, "convolution": {"begin": 2, "finish": 3, "depthwise": 4}, "attention": {"fine": 5}}
    tower = {"halve_0": {"kernel": 6}, "widen": {"weight": 7}, "layers": layer | {"end": 8}}
    state = migrate_state({"params": {"words": {"audio": tower, "start": 9}, "media": {"audio": tower}}})
    moved = {
        "subsample_0": {"kernel": 6},
        "out_proj": {"weight": 7},
        "layers": {
            "ffn_start": {"pre": 1},
            "ffn_end": 8,
            "convolution": {"pw_in": 2, "pw_out": 3, "depthwise": 4},
            "attention": {"per_dim_scale": 5},
        },
    }
    assert state == {"encoder": {"words": {"audio": moved, "start": 9}, "media": {"audio": moved}}}
    metadata = migrate_metadata({"architecture": ARCHITECTURE | TOWERS, "contract": CONTRACT}, state)
    arch = read_architecture(metadata)
    assert arch.vision.num_layers == 16 and arch.audio.conv_channels == (128, 32) and arch.audio.activation_clip == 1e10
    assert arch.encoder == "embed.model.late_fusion:LateFusion"
    assert dataclasses.replace(arch, vision=None, audio=None, encoder=ARCH.encoder) == ARCH
