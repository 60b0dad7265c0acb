"""An installed libtpu is not started on a host without a TPU."""

import os
import pathlib
import subprocess
import sys

import pytest

# Stands for libtpu, which is not installed with the tests: starting it fails.
LIBTPU = """
def configure_library_path(): pass
def get_library_path(): return "/nowhere/libtpu.so"
"""
PROGRAM = """
import jax
from embed.distributed.devices import has_tpu, skip_absent_tpu
skip_absent_tpu()
print(has_tpu(), jax.config.jax_platforms)
"""


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "False cpu"),
        ({"JAX_PLATFORMS": "cpu,tpu"}, "False cpu,tpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, "True None"),
    ],
)
def test_an_absent_tpu_is_skipped_and_an_explicit_choice_kept(tmp_path, root, variables, expected):
    if list(pathlib.Path("/dev").glob("accel*")) or pathlib.Path("/dev/nvidiactl").exists():
        pytest.skip("this host has an accelerator")
    (tmp_path / "libtpu.py").write_text(LIBTPU)
    unset = {"JAX_PLATFORMS", "TPU_WORKER_HOSTNAMES", "TPU_ACCELERATOR_TYPE", "EMBED_POD"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PYTHONPATH": f"{root}:{tmp_path}", "TPU_SKIP_MDS_QUERY": "1"} | variables
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected.split()
