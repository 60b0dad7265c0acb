"""Processes of a pod, simulated: they train what one does, and go on from each other's checkpoints after kills.

Run as a program, this file is what they run: a few steps of a small model on records of two tasks.
`HOSTS_KILLS=20 pytest tests/test_hosts.py` kills oftener than the default, which does once, and tries four hosts too.
"""

import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ARCH, SENTENCES

from embed import checkpoint, optim, program, train
from embed.data.layout import Budget, Layout
from embed.data.records import Record, Text, open_split, write
from embed.data.tasks import Task
from embed.data.tokenizer import Tokenizer
from embed.data.tokenizer import train as train_tokenizer
from embed.inputs import Dropout
from embed.loss.contrast import contrast
from embed.loss.ring import ring
from embed.mesh import make_mesh
from embed.model.encoder import Encoder, encode_by_microbatch, encode_pairs

ROOT = pathlib.Path(__file__).parent.parent
STEPS, SAVE = 6, 2
KILLS = int(os.environ.get("HOSTS_KILLS", 1))
SMALL = dataclasses.replace(ARCH, groups=1, per_layer=0)  # little to compile, and to send
TASKS = [Task(name, 16, 1.0, Budget(16), Budget(16), negatives=1) for name in ("one", "two")]
WORDS = " ".join(SENTENCES[:3]).split()


def prepare(folder: pathlib.Path) -> None:
    """Two datasets of sentences and the tokenizer."""
    for number, task in enumerate(TASKS):
        rng = random.Random(number)
        parts = [[(Text(" ".join(rng.choices(WORDS, k=4))),) for _ in range(3)] for _ in range(60)]
        records = [Record(f"{task.name}{i}", q, p, (n,)) for i, (q, p, n) in enumerate(parts)]
        write(folder / task.name / "train.array_record", records)
    train_tokenizer(SENTENCES, ARCH.vocabulary).save(folder / "tokenizer.json")


def main(data: pathlib.Path, folder: pathlib.Path) -> None:
    """Trains `folder` to STEPS as one of the hosts."""
    program.join()
    encoder = Encoder(SMALL, remat=False)

    def loss(params, pairs, candidates, key):
        def embed(inputs):
            return encode_by_microbatch(lambda rows: encoder.apply({"params": params}, rows)[:, 0], inputs, 8)

        sides = encode_pairs(embed, pairs, Dropout(key, 0.1))
        return contrast(*sides, pairs, temperature=0.05, widths=SMALL.widths, candidates=candidates, rivals=ring)

    run = train.Run(
        folder, encoder, TASKS, loss, optim.adamw(1e-2, warmup=2, steps=STEPS),
        steps=STEPS, seed=0, schedule=train.Schedule(save=SAVE, keep=2),
    )  # fmt: skip
    with jax.set_mesh(make_mesh((1, 4, 2))):
        layout = Layout(Tokenizer.load(data / "tokenizer.json"), SMALL.media)
        train.fit(run, layout, [open_split(data / task.name, "train") for task in TASKS])


def start(count: int, data: pathlib.Path, folder: pathlib.Path) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "JAX_COMPILATION_CACHE_DIR": str(data / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [ROOT / "launch" / "simulate.sh", str(count), "test_hosts", str(data), str(folder)]
    with (data / "log.txt").open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def finish(process: subprocess.Popen, data: pathlib.Path) -> None:
    assert process.wait(300) == 0, (data / "log.txt").read_text()[-3000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("hosts")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def alone(data) -> pathlib.Path:
    """What one process trains."""
    finish(start(1, data, data / "alone"), data)
    return data / "alone"


def lines(run: pathlib.Path) -> list[str]:
    path = run / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def same(one: pathlib.Path, other: pathlib.Path, tolerance: float) -> None:
    a, b = (checkpoint.load_params(run) for run in (one, other))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1, np.abs(y).max()))


@pytest.mark.parametrize("count", [2, 4] if KILLS > 1 else [2])
def test_hosts_train_what_one_process_trains(data, alone, count):
    run = data / f"of{count}"
    finish(start(count, data, run), data)
    assert len(lines(run)) == STEPS  # one host writes
    same(run, alone, 1e-6)


def test_killed_and_gone_on_by_another_number_of_hosts(data, alone):
    """Each time all processes of it are killed at once, as late as chance says; the last start runs to the end."""
    run, rng = data / "killed", random.Random(0)
    killed = 0
    while killed < KILLS:
        process = start(rng.choice([1, 2, 4]), data, run)
        at = len(lines(run)) + rng.randint(1, 3)
        while len(lines(run)) < min(at, STEPS) and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() in (None, 0), (data / "log.txt").read_text()[-3000:]
        if process.poll() == 0:  # it came to the end first: from the start again
            same(run, alone, 1e-6)
            run = data / f"killed{killed}"
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
    finish(start(2, data, run), data)
    assert len(lines(run)) == STEPS
    same(run, alone, 1e-6)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
