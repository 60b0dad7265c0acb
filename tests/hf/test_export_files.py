"""What an export leaves on the disk: the modes that the umask says, and all of a model or nothing."""

import os
import resource
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from text_model import save_run

from embed import hf
from embed.__main__ import main
from embed.training.published import export_checkpoint
from embed.training.weights import load_params

KILLED = """
import os, signal, sys
import embed.hf.export
from embed.training.published import export_checkpoint

def kill(event, args):
    if event == "os.chmod" and str(args[0]).endswith(".safetensors"):  # the first file of weights is written
        os.kill(os.getpid(), signal.{signal})

sys.modules["embed.hf.export"].SHARD = 10_000
sys.addaudithook(kill)
export_checkpoint(sys.argv[1], sys.argv[2])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    return save_run(tmp_path_factory.mktemp("own") / "run", tokenizer)


def same_weights(run, folder):
    jax.tree.map(np.testing.assert_array_equal, hf.load(folder), load_params(run))


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_every_file_has_the_mode_that_the_umask_says(run, tmp_path, monkeypatch, umask, file, folder):
    monkeypatch.setattr("embed.hf.export.SHARD", 20_000)
    before = os.umask(umask)
    try:
        export_checkpoint(run, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "out", *(tmp_path / "out").rglob("*"))}
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert modes == {path: folder if path.is_dir() else file for path in modes}


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_an_export_that_is_stopped_leaves_no_model_and_the_next_one_goes_through(run, tmp_path, name):
    command = [sys.executable, "-c", KILLED.format(signal=name), str(run), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -getattr(signal, name), done.stderr
    left = list(tmp_path.iterdir())
    assert [path.name.startswith("out.partial-") for path in left] == ([True] if name == "SIGKILL" else [])
    export_checkpoint(run, tmp_path / "out")
    same_weights(run, tmp_path / "out")


def test_a_disk_without_room_is_one_line_and_leaves_nothing(run, tmp_path, capsys):
    """A limit on the size of a file, as a quota has it, is below that of the weights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        assert main(["export", str(run), str(tmp_path / "out")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and "model.safetensors cannot be written" in line
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_replaced_and_a_full_one_refused(run, tmp_path):
    (tmp_path / "out").mkdir()
    export_checkpoint(run, tmp_path / "out", "bfloat16")
    first = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="out is not empty; give a new folder"):
        export_checkpoint(run, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
