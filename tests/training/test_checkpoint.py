"""Checkpoints refuse parameters that are not finite and paths that orbax takes for patterns; git may be missing."""

import os
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH
from test_loop import GOOD, Records, fit
from test_soup import equal, level, save

from embed.distributed.mesh import make_mesh
from embed.embedder import Embedder
from embed.training import checkpoint, soup
from embed.training.metadata import code_version, metadata_for, read_metadata
from embed.training.weights import check_finite, load_params, load_sharded, save_params

CLIPPED = {"mlp": {"bounds": jnp.array([[-jnp.inf, jnp.inf]] * 2), "weight": jnp.ones((2, 4))}}


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(kind, value):
    good = {"layer": {"weight": np.ones((3, 4), np.float32)}, "half": jnp.ones(3, jnp.bfloat16), "count": np.arange(3)}
    good = jax.tree.map(kind, good | CLIPPED)
    check_finite(good, "here")
    broken = np.ones((3, 4), np.float32)
    broken[2, 1] = value
    with pytest.raises(checkpoint.CheckpointError, match="here: parameter layer/weight holds NaN or infinity, as do 0"):
        check_finite(good | {"layer": {"weight": kind(broken)}}, "here")


def test_bounds_may_be_infinite_and_not_nan():
    with pytest.raises(checkpoint.CheckpointError, match="parameter mlp/bounds holds NaN"):
        check_finite({"mlp": {"bounds": jnp.array([-jnp.inf, jnp.nan])}}, "here")


def test_a_model_that_is_not_finite_is_refused_by_all_that_reads_one(tmp_path, preprocessor):
    good, broken = save(tmp_path / "good", preprocessor, 1.0), save(tmp_path / "broken", preprocessor, np.nan)
    named = f"{broken}: parameter .* holds NaN"
    with jax.set_mesh(make_mesh((1, 4, 2))):
        assert level(load_sharded(good)) == 1
        for read in (load_sharded, load_params, Embedder.load):
            with pytest.raises(checkpoint.CheckpointError, match=named):
                read(broken)
    with pytest.raises(checkpoint.CheckpointError, match=named):
        soup.average([good, broken], [1.0, 1.0])


def test_a_run_does_not_go_on_from_what_is_not_finite(tmp_path, preprocessor):
    state = fit(tmp_path / "run", preprocessor, [GOOD], [Records()], steps=2)
    meta = read_metadata(tmp_path / "run")
    state.encoder["vocabulary"] = jnp.where(state.encoder["vocabulary"] > 0.1, jnp.nan, 0)
    with checkpoint.checkpointer(tmp_path / "run", every=1, keep=9) as saver:
        checkpoint.save(saver, tmp_path / "run", 3, vars(state), meta, wait=True)
    with pytest.raises(checkpoint.CheckpointError, match="checkpoints/3: parameter encoder/vocabulary holds NaN"):
        fit(tmp_path / "run", preprocessor, [GOOD], [Records()], steps=4)


SPECIAL = ["runs[1]", "a[b", "lr=*", "what?", "back\\slash"]


@pytest.mark.parametrize("name", SPECIAL)
def test_a_path_that_is_a_pattern_is_refused_before_anything_is_written(tmp_path, preprocessor, name):
    params = {"x": np.arange(4.0)}
    named = f"{re.escape(str(tmp_path / name))}.*: checkpoints cannot be written or read where the path contains "
    for folder in (tmp_path / name, tmp_path / name / "run"):
        with pytest.raises(checkpoint.CheckpointError, match=named):
            fit(folder, preprocessor, [GOOD], [Records()], steps=1)
        with pytest.raises(checkpoint.CheckpointError, match=named):
            save_params(folder, params, metadata_for(ARCH, preprocessor), preprocessor.tokenizer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SPECIAL)
def test_a_checkpoint_that_was_moved_into_such_a_path_says_so(tmp_path, preprocessor, name):
    save(tmp_path / "run", preprocessor, 1.0)
    shutil.move(tmp_path / "run", tmp_path / name)
    for read in (read_metadata, load_params, Embedder.load):
        with pytest.raises(checkpoint.CheckpointError, match="use another workdir"):
            read(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / name)
    with pytest.raises(checkpoint.CheckpointError, match="use another workdir"):
        load_params(tmp_path / "link")


def test_every_other_character_is_fine_and_so_is_a_link(tmp_path, preprocessor):
    """Names that sweeps write; only the parts of a path that orbax sees count."""
    names = [
        "a b",
        "größe",
        "lr=1e-3,seed=2",
        "100%",
        "a#b",
        "a]b",
        "{x}",
        "$HOME",
        "~",
        "a'b\"c",
        "new\nline",
        "a:b;c",
    ]
    params = {"x": np.arange(4.0, dtype=np.float32)}
    for name in names:
        save_params(tmp_path / name, params, metadata_for(ARCH, preprocessor), preprocessor.tokenizer)
        assert equal(load_params(tmp_path / name), params), name
    (tmp_path / "[1]").symlink_to(tmp_path / "a b")
    assert equal(load_params(tmp_path / "[1]"), params)


@pytest.mark.parametrize("kind", ["no git", "none that may be run", "of another user"])
def test_where_git_cannot_say_it_the_version_is_unknown(tmp_path, monkeypatch, preprocessor, kind):
    if kind == "of another user":
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    if kind == "none that may be run":
        (tmp_path / "git").write_text("#!/bin/sh\necho no\n")
    assert code_version() == "unknown"
    assert metadata_for(ARCH, preprocessor)["code"] == "unknown"


def test_the_version_is_that_of_the_working_tree(root: pathlib.Path):
    if not (root / ".git").exists():
        pytest.skip("not a clone")
    assert re.fullmatch(r"[0-9a-f]{12}\+?|.*-g[0-9a-f]{12}\+?", code_version())
