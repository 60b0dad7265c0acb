"""What a compiled program sends is read right; the real step of an experiment compiles for a pod that is not there."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCH
from jax import P

from embed.data.budget import Budget
from embed.data.modalities import Text
from embed.data.preprocess import Preprocessor
from embed.data.records import Record
from embed.data.tasks import Task, batch_structs, make_pairs
from embed.distributed import mesh
from embed.training.config_check import ConfigError
from launch import table
from launch.hlo import collectives, parse_overflow
from launch.tpu_slice import slice_devices

ROOT = pathlib.Path(__file__).parents[2]


def test_collectives_are_counted_by_their_trips_and_bytes():
    def body(_, x):
        return jax.lax.psum(x, "data") * 0.1

    def program(x):
        y = jax.lax.fori_loop(0, 5, body, jax.lax.pcast(jnp.ones(256), ("data",), to="varying") + x.sum())
        return jax.lax.ppermute(y, "data", [(i, (i + 1) % 8) for i in range(8)])

    with jax.set_mesh(mesh.make_mesh((1, 8, 1))):
        spread = jax.shard_map(program, in_specs=P("data"), out_specs=P("data"), check_vma=False)
        x = jax.ShapeDtypeStruct((64,), jnp.float32, sharding=P("data"))
        found = collectives(jax.jit(spread).lower(x).compile().as_text())
    assert found == {"all-reduce": (5, 5 * 256 * 4), "collective-permute": (1, 256 * 4)}


@pytest.mark.parametrize(
    "said",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 70.67G of 15.75G hbm. Exceeded",
        "the total memory required for HLO temporaries (70.67G) exceeds available HBM (15.75G).",
    ],
)
def test_what_does_not_fit_is_read(said):
    assert parse_overflow(RuntimeError(said)) == (70.67, 15.75)
    with pytest.raises(KeyError):
        parse_overflow(KeyError("another"))


class Records:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return Record(str(index), (Text("a b"),), (Text("c"),), ((Text("d"),),))


def test_shapes_are_those_of_a_real_batch(tokenizer):
    preprocessor = Preprocessor(tokenizer, ARCH.media)
    task = Task("any", 4, 1.0, Budget(8), Budget(9, images=2, patches=3, clips=1, frames=5), negatives=2)
    batch = make_pairs(task, preprocessor, Records(), np.array([[i, 0] for i in range(4)]))
    wanted = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch_structs(task, preprocessor.media)) == wanted


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="compiling for a TPU needs the extra [tpu]")
def test_an_experiment_compiles_for_a_slice(tmp_path):
    out = tmp_path / "lines.jsonl"
    command = [sys.executable, "-m", "launch.compile", "finetune", "--config=configs/cpu.py", "--topology=v5e:2x2"]
    subprocess.run([*command, "--task=scenes_audio", f"--out={out}"], cwd=ROOT, check=True, timeout=500)
    (line,) = map(json.loads, out.read_text().splitlines())
    assert line["fits"] and line["task"] == "scenes_audio" and 1 <= line["flops_ratio"] < 1.5
    assert line["collectives"] and line["temporary_gib"] < 1


@pytest.mark.parametrize("topology", ["nope", "v5e", "v5e:4", "v9:2x2", "v5litepod-16"])
def test_an_unknown_topology_is_refused_with_the_choices(topology):
    """Without libtpu too."""
    with pytest.raises(ConfigError, match=f"--topology={topology}: not a TPU slice; choices: v5e:4x4, "):
        slice_devices(topology)


def test_an_unknown_topology_is_one_line_of_the_command():
    command = [sys.executable, "-m", "launch.compile", "finetune", "--config=configs/cpu.py", "--topology=nope"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and not done.stdout
    assert re.fullmatch(r"error: --topology=nope: not a TPU slice; choices: v5e:4x4, .*\n", done.stderr)


def test_the_committed_table_is_complete_and_its_page_current():
    """Nothing would be compiled again for a renamed config, model or task."""
    lines = table.read_table()
    keys = {tuple(line[name] for name in table.KEY) for line in lines if line["is_own_batch"]}
    assert keys == set(table.keys()) and {f"{key[2]}.py" for key in keys} < {p.name for p in ROOT.glob("configs/*.py")}
    assert table.PAGE.read_text() == table.format_page(lines)
    for key in keys:
        assert table.find_or_compile(*key) in lines


def test_a_mixture_says_what_its_batches_hold(preprocessor):
    from launch.mixture import format_task  # not above: it defines flags

    tasks = [Task("one", 4, 3.0, Budget(8), Budget(16), negatives=1), Task("two", 4, 1.0, Budget(8), Budget(8))]
    run = types.SimpleNamespace(steps=40, tasks=tasks, seed=0)
    name, records, pairs, steps, epochs, tokens, padding, *media, cut, lost = format_task(
        run, tasks[0], Records(), preprocessor, 2
    )
    assert (name, records, pairs, steps, epochs) == ("one", "4", "4", "30", "30.0")
    assert padding == f"{100 * (1 - int(tokens) / (4 * (8 + 16 + 16))):.0f} %"
    assert (media, lost) == (["", ""], "0.0 %") and cut == "0.0 %"
