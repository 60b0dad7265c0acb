"""The whole recipe, killed in three places and started again, ends where an undisturbed one ends.

Run as a program, this file is the recipe that the tests kill: two tasks, few steps, the real stages.
"""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
import pytest
from conftest import ARCH

from configs import cpu
from embed import toy_corpora
from embed.batch import Candidates
from embed.data.budget import Budget
from embed.data.tasks import Task
from embed.distributed import hosts
from embed.distributed.mesh import make_mesh
from embed.eval import suite
from embed.model.presets import PRESETS
from embed.training.metadata import read_metadata
from embed.training.startup import join_pod
from embed.training.weights import load_params
from experiments import finetune, own_data, prefinetune, recipe

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
RECORDS = 24  # of a split
NAMES = ("scenes_image", "stdlib_text")
TASKS = (
    Task(
        "scenes_image",
        8,
        2.0,
        Budget(16),
        Budget(20, images=1, patches=16),
        negatives=1,
        candidates=Candidates(symmetric=True),
    ),
    Task("stdlib_text", 8, 1.0, Budget(16), Budget(16), prompt="search result", prompt_dropout=0.5, negatives=1),
)
STEPS = 40
STAGES = ("prefinetune", "finetune", "finetune__more_media", "soup_uniform", "soup_weighted", "soup_greedy", "own_data")


def small(folder: pathlib.Path) -> None:
    """The recipe in `folder`, on datasets of a few records."""
    PRESETS["tiny"] = dataclasses.replace(ARCH, layer_groups=1, per_layer_dim=0)  # little to compile
    for name in set(toy_corpora.CORPORA) - set(NAMES):
        del toy_corpora.CORPORA[name]
    for stage in (prefinetune, finetune):
        stage.plan = functools.wraps(stage.plan)(functools.partial(stage.plan, tasks=TASKS, steps=STEPS))
    own_data.plan = functools.wraps(own_data.plan)(functools.partial(own_data.plan, batch=4))
    own_data.STEPS = STEPS
    suite.SUITE = {name: suite.SUITE[name] for name in NAMES}
    join_pod()
    with hosts.primary_first("small corpora"):
        toy_corpora.build(folder / "data", max_records=RECORDS)
    config = cpu.get_config()
    config.update(
        {"workdir": str(folder / "runs"), "data": str(folder / "data"), "pairs": str(folder.parent / "pairs")}
    )
    config.update({"save": 10, "unroll": 1})
    with jax.set_mesh(make_mesh((1, -1, 1))):
        recipe.main(config)


def start(folder: pathlib.Path, command: Sequence[str] = (sys.executable, __file__), devices: int = 1):
    folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{pathlib.Path(__file__).parent}",
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "DEVICES": str(devices),
    }
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen([*command, str(folder)], env=environment, stdout=log, stderr=log)


def finish(process: subprocess.Popen, folder: pathlib.Path) -> None:
    assert process.wait(900) == 0, (folder / "log.txt").read_text()[-3000:]


def lines(path: pathlib.Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
    """The recipe without a break."""
    folder = tmp_path_factory.mktemp("recipe")
    for name, thing in (("animals", "cat"), ("tools", "hammer")):
        (folder / "pairs" / name).mkdir(parents=True)
        for split, count in (("train", 12), ("test", 5)):
            rows = [
                {
                    "id": str(i),
                    "query": [{"text": f"{split} {thing} {i}"}],
                    "positive": [{"text": f"number {i}, a {thing}"}],
                }
                for i in range(count)
            ]
            (folder / "pairs" / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    finish(start(folder / "whole"), folder / "whole")
    return folder / "whole"


def test_killed_and_started_again_it_ends_the_same(whole):
    killed = whole.parent / "killed"
    runs = killed / "runs"
    shutil.copytree(whole / "data", killed / "data")
    moments = [
        (signal.SIGKILL, lambda: lines(runs / "prefinetune" / "metrics.jsonl") >= 13),
        (signal.SIGINT, lambda: lines(runs / "finetune__more_media" / "metrics.jsonl") >= 3),
        (signal.SIGKILL, lambda: (runs / "soup_uniform" / "checkpoints").exists()),
    ]
    for kill, moment in moments:
        process = start(killed)
        while not moment():
            assert process.poll() is None, (killed / "log.txt").read_text()[-3000:]
            time.sleep(0.01)
        process.send_signal(kill)
        assert process.wait(60) != 0, f"the recipe was over before {kill.name}"
    finish(start(killed), killed)
    for stage in STAGES:
        a, b = (load_params(folder / "runs" / stage) for folder in (whole, killed))
        jax.tree.map(np.testing.assert_array_equal, a, b)
    for name in ("results.json", "results_pairs.json"):
        assert (whole / "runs" / name).read_text() == (killed / "runs" / name).read_text()


def test_pairs_of_your_own_are_trained_and_scored(whole):
    names = {task["name"] for task in read_metadata(whole / "runs" / "own_data")["tasks"]}
    assert names == {"animals", "tools"}
    results = json.loads((whole / "runs" / "results_pairs.json").read_text())
    assert list(results) == ["prefinetune", recipe.FINAL, "own_data"]
    for column in results.values():
        assert set(column) == {f"{name}: {way}" for name in names for way in ("query→target", "target→query")}
    assert "animals" in (whole / "runs" / "report_pairs.html").read_text()


def test_hosts_end_where_one_process_ends(whole):
    """Four devices, in one process and in two."""
    folders = [whole.parent / f"of{count}" for count in (1, 2)]
    for folder in folders:
        shutil.copytree(whole / "data", folder / "data")
        command = [str(ROOT / "launch" / "simulate.sh"), folder.name.removeprefix("of"), "test_recipe"]
        finish(start(folder, command, devices=4), folder)
    alone, *others = folders
    for folder in others:
        for stage in STAGES:
            a, b = (load_params(of / "runs" / stage) for of in (alone, folder))
            jax.tree.map(np.testing.assert_array_equal, a, b)
        for name in ("results.json", "results_pairs.json"):
            assert (alone / "runs" / name).read_text() == (folder / "runs" / name).read_text()
        assert (folder / "runs" / "report.html").exists()


if __name__ == "__main__":
    small(pathlib.Path(sys.argv[1]))
