"""Processes of a simulated pod train, average and evaluate what one process does, and resume from each other's
checkpoints after kills, with the same batches and to the same bits.

Run as a program, this file is what they run: a few steps of a small model on records of two tasks, then a soup of the
run's last two checkpoints and its scores. Every host writes down what batches it read, and the scores it got.
By default it is killed once; the slow tests kill it oftener, and try four hosts and another mesh too.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
import optax
import pytest
from conftest import ARCH, SENTENCES
from flax.traverse_util import flatten_dict
from jax._src import compilation_cache, compiler

from embed.batch import Dropout
from embed.data.budget import Budget
from embed.data.modalities import Text
from embed.data.preprocess import Preprocessor
from embed.data.records import Record
from embed.data.sources import open_split
from embed.data.tasks import Task
from embed.data.tokenizer import Tokenizer
from embed.data.tokenizer import train_tokenizer as train_tokenizer
from embed.data.writing import write_records
from embed.distributed import mesh
from embed.distributed.preemption import RESTART_STATUS
from embed.embedder import Embedder
from embed.eval import suite as evaluate
from embed.losses.contrastive import contrastive_loss
from embed.losses.ring import ring_score
from embed.model.build import build
from embed.model.encoder import encode_by_microbatch, encode_pairs
from embed.training import checkpoint, loop, optim, soup
from embed.training.evals import read_best
from embed.training.startup import join_pod
from embed.training.weights import load_params

ROOT = pathlib.Path(__file__).parents[2]
STEPS, SAVE, EVERY = 6, 2, 4  # the second evaluation is the last step's
SLOW = pytest.mark.slow
MESH, OTHER = (1, 4, 2), (1, 8, 1)
# The last layer's factor: the norm after it divides by it again, so that its gradient is rounding alone, of which Adam
# makes whole steps.
UNFELT = ("backbone", "groups", "global", "scalar")
STALL = 45  # seconds, many times those of a step, on a busy machine too
SMALL = dataclasses.replace(  # little to compile, and to send
    ARCH, layer_groups=1, per_layer_dim=0, media=dataclasses.replace(ARCH.media, patch_size=0, audio_frame_size=0)
)
TASKS = [Task(name, 16, 1.0, Budget(16), Budget(16), negatives=1) for name in ("one", "two")]
WORDS = " ".join(SENTENCES[:3]).split()


def prepare(folder: pathlib.Path) -> None:
    """Two datasets of sentences and the tokenizer."""
    for number, task in enumerate(TASKS):
        rng = random.Random(number)
        for split, count in (("train", 60), ("test", 21)):
            parts = [[(Text(" ".join(rng.choices(WORDS, k=4))),) for _ in range(3)] for _ in range(count)]
            records = [Record(f"{task.name}{i}", q, p, (n,)) for i, (q, p, n) in enumerate(parts)]
            write_records(folder / task.name / f"{split}.array_record", records)
    train_tokenizer(SENTENCES, ARCH.vocab_size).save(folder / "tokenizer.json")


def smallness(params, preprocessor) -> dict[str, float]:
    """A score that falls as parameters grow, so that the first is the best.

    One program: of many small ones with collectives in flight, jax 0.10.2 hangs on a CPU with many devices.
    """
    return {"minus": -float(jax.jit(optax.tree.norm)(params))}


def main(data: pathlib.Path, folder: pathlib.Path, shape: tuple[int, int, int], steps: int, stall: float) -> None:
    """Train `folder` to `steps` as one of the hosts, then average and evaluate."""
    join_pod()
    encoder = build(SMALL, remat=False)

    def loss(params, pairs, candidates, key):
        def embed(inputs):
            return encode_by_microbatch(lambda rows: encoder.apply({"params": params.encoder}, rows), inputs, 8)

        sides = encode_pairs(embed, pairs, Dropout(key, 0.1))
        return contrastive_loss(
            *sides, pairs, temperature=0.05, widths=SMALL.matryoshka_dims, candidates=candidates, scorer=ring_score
        )

    run = loop.Run(
        encoder, TASKS, loss, optim.adamw(1e-2, warmup=2, steps=STEPS),
        steps=steps, seed=0, data=data, folder=folder, loop=loop.LoopConfig(save=SAVE, keep=2, stall=stall),
        evals=[loop.Eval("norm", EVERY, smallness)],
    )  # fmt: skip
    with jax.set_mesh(mesh.make_mesh(shape)):
        preprocessor = Preprocessor(Tokenizer.load(data / "tokenizer.json"), SMALL.media)
        loop.fit(run, preprocessor, [open_split(data / task.name, "train") for task in TASKS])

        parents = [folder / "checkpoints" / str(step) for step in checkpoint.saved_steps(folder)]
        soup.save(folder / "soup", soup.average(parents, [2.0, 1.0]), parents)
        embedder = Embedder.load(folder / "soup")
        suite = evaluate.load_datasets(embedder, str(data), "test")
        results = evaluate.evaluate(
            suite, evaluate.encode_suite(embedder, embedder.params, suite), SMALL.matryoshka_dims
        )
        (folder / f"results.{jax.process_index()}of{jax.process_count()}.json").write_text(json.dumps(results))


def watch_batches(folder: pathlib.Path) -> None:
    """Make `loop.fit` write a digest of every part of every batch that it reads, as JSON [step, part, digest];
    the file's name ends in the process's number."""
    read = loop.iterate_batches

    def record_batches(data, start, stop, workers):
        own, parts = mesh.local_batch_shards()
        with (folder.parent / f"{folder.name}.read.{jax.process_index()}.{os.getpid()}").open("w", 1) as out:
            for step, (number, pairs) in enumerate(read(data, start, stop, workers), start):
                for place, part in enumerate(own):
                    digest = hashlib.blake2b(bytes([number, parts]), digest_size=8)
                    for leaf in jax.tree.leaves(pairs):
                        digest.update(leaf.reshape(len(own), -1)[place].tobytes())
                    out.write(json.dumps([step, part, digest.hexdigest()]) + "\n")
                yield number, pairs

    loop.iterate_batches = record_batches


def keep_programs(folder: pathlib.Path) -> None:
    """Cache the compiled programs of every host. JAX lets the first alone write them, and on CPU those of the others
    are not the same: without this, they compile at every start."""

    def write(key, seconds, name, backend, executable, *callbacks):
        compilation_cache.put_executable_and_time(key, name, executable, backend, int(seconds))

    compiler._cache_write = write
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def started(command: list, data: pathlib.Path, **environment: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(map(str, (ROOT, *(ROOT / "tests" / name for name in ("", "distributed", "training"))))),
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        **environment,
    }
    command = list(map(str, command))
    with (data / "log.txt").open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def start(count: int, data: pathlib.Path, folder: pathlib.Path, shape: tuple[int, int, int] = MESH) -> subprocess.Popen:
    """Run this file in `count` processes."""
    return started([ROOT / "launch" / "simulate.sh", count, "test_hosts", data, folder, *shape, STEPS, 600], data)


def finish(process: subprocess.Popen, data: pathlib.Path) -> None:
    try:
        assert process.wait(900) == 0, (data / "log.txt").read_text()[-3000:]
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Kill a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("hosts")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def alone(data) -> pathlib.Path:
    """The run of a single process."""
    finish(start(1, data, data / "alone"), data)
    return data / "alone"


def lines(run: pathlib.Path) -> list[str]:
    path = run / "metrics.jsonl"
    rows = path.read_text().splitlines() if path.exists() else []
    return [row for row in rows if '"task"' in row]


def evaluations(run: pathlib.Path) -> list[str]:
    return [row for row in (run / "metrics.jsonl").read_text().splitlines() if "eval/norm/minus" in row]


def difference(one: pathlib.Path, other: pathlib.Path, but: tuple[str, ...] = ()) -> float:
    """The largest of two runs' parameters, relative to the leaf's largest value or 1; `but` names a leaf left out."""
    a, b = (flatten_dict(load_params(run)) for run in (one, other))
    assert a.keys() == b.keys() and {but} - {()} <= a.keys()
    return max(np.abs(a[path] - b[path]).max() / max(1, np.abs(b[path]).max()) for path in a if path != but)


def batches(run: pathlib.Path) -> dict[tuple[int, int], set[str]]:
    """(step, part) -> the digests that any process, killed or not, has written of it."""
    found = collections.defaultdict(set)
    for path in run.parent.glob(f"{run.name}.read.*"):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # a killed process may leave half a line
                step, part, digest = json.loads(line)
                found[step, part].add(digest)
    return found


def scores(run: pathlib.Path, count: int) -> Iterator[dict]:
    """The results of every host of the last start."""
    for host in range(count):
        yield json.loads((run / f"results.{host}of{count}.json").read_text())


def same(run: pathlib.Path, alone: pathlib.Path, count: int) -> None:
    """Assert that a run that `count` hosts finished equals the run of one process, bit for bit."""
    assert len(lines(run)) == STEPS  # one host writes
    expected = batches(alone)
    assert set(expected) == {(step, part) for step in range(STEPS) for part in range(4)}
    assert batches(run) == expected
    assert difference(run, alone) == 0 and difference(run / "soup", alone / "soup") == 0
    assert evaluations(run) == evaluations(alone) and len(evaluations(run)) == 2
    assert read_best(run / "best") == read_best(alone / "best") and read_best(run / "best")["step"] == EVERY
    assert difference(run / "best", alone / "best") == 0
    (wanted,) = scores(alone, 1)
    assert len(wanted) == 2 * len(TASKS)
    assert all(result == wanted for result in scores(run, count))


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=SLOW)])
def test_hosts_train_average_and_evaluate_what_one_process_does(data, alone, count):
    run = data / f"of{count}"
    finish(start(count, data, run), data)
    same(run, alone, count)


def reach(process: subprocess.Popen, run: pathlib.Path, wanted: int, data: pathlib.Path) -> bool:
    """Wait until a run has written so many lines, and return whether its processes still run."""
    while len(lines(run)) < wanted and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() in (None, 0), (data / "log.txt").read_text()[-3000:]
    return process.poll() is None


def members(run: pathlib.Path) -> list[int]:
    """Return the live processes of a run, in the order of their hosts."""
    named = sorted(tuple(map(int, path.name.rsplit(".", 2)[1:])) for path in run.parent.glob(f"{run.name}.read.*"))
    return [number for _, number in named if pathlib.Path(f"/proc/{number}").exists()]


def wait_until_gone(run: pathlib.Path) -> None:
    """Return when no process of a run is left; one that was killed needs a moment to be reaped."""
    deadline = time.monotonic() + 60
    while members(run):
        assert time.monotonic() < deadline, members(run)
        time.sleep(0.1)


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=SLOW)])
def test_killed_and_gone_on_by_another_number_of_hosts(data, alone, kills):
    """At a random step all processes are killed, or one of them, which ends the others; the last start finishes."""
    run, rng, killed = data / f"killed_{kills}", random.Random(0), 0
    while killed < kills:
        count = rng.choice([1, 2, 2, 4]) if killed else 2
        process = start(count, data, run)
        if not reach(process, run, len(lines(run)) + rng.randint(1, 2), data):
            same(run, alone, count)  # it came to the end first: from the start again
            run = data / f"killed_{kills}_from_{killed}"
            continue
        if count > 1 and (rng.random() < 0.5 or not killed):
            os.kill(rng.choice(members(run)), signal.SIGKILL)
            assert process.wait(300) != 0
            wait_until_gone(run)
        end(process)
        killed += 1
    finish(start(1, data, run), data)
    same(run, alone, 1)


@contextlib.contextmanager
def two_hosts(data: pathlib.Path, run: pathlib.Path, stall: int) -> Iterator[list[subprocess.Popen]]:
    """Yield two hosts in the middle of a long run, without `simulate.sh`, which would end one with the other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    pod = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_NUM_CPU_DEVICES": "4"}
    command = [sys.executable, "-m", "test_hosts", data, run, *MESH, 1000, stall]
    hosts = [started(command, data, **pod, JAX_PLATFORMS="cpu", JAX_PROCESS_ID=host) for host in "01"]
    try:
        assert reach(hosts[0], run, 7, data)  # past the first evaluation, which is not timed
        yield hosts
    finally:
        for process in hosts:
            end(process)


@SLOW
@pytest.mark.parametrize("sign", [signal.SIGSTOP, signal.SIGKILL])
def test_a_host_that_stands_still_or_is_gone_ends_the_other(data, sign):
    run = data / f"by_{sign.name}"
    with two_hosts(data, run, STALL) as hosts:
        hosts[1].send_signal(sign)
        assert hosts[0].wait(300) == RESTART_STATUS
    assert re.search(rf"{run.name}, step \d+: (no progress for|failed on)", (data / "log.txt").read_text())


@pytest.mark.parametrize(
    ("sign", "status", "restarts"), [(signal.SIGTERM, 1, 2), pytest.param(signal.SIGINT, -signal.SIGINT, 1, marks=SLOW)]
)
def test_one_host_asked_to_stop_stops_all_at_one_step_which_is_saved(data, sign, status, restarts):
    run = data / f"asked_by_{sign.name}"
    with two_hosts(data, run, 600) as hosts:
        hosts[1].send_signal(sign)
        assert [host.wait(300) for host in hosts] == [1, status]  # 1: Restart, which embed.training.main makes a 75
    reached = re.findall(
        rf"Restart: {run} was asked to stop and is saved at step (\d+)", (data / "log.txt").read_text()
    )
    assert reached == [str(len(lines(run)))] * restarts
    assert checkpoint.saved_steps(run)[-1] == len(lines(run)) < 1000


@SLOW
def test_gone_on_with_another_mesh(data, alone):
    run = data / "remeshed"
    process = start(1, data, run)
    assert reach(process, run, SAVE + 1, data)
    end(process)
    finish(start(2, data, run, OTHER), data)
    assert batches(run).keys() >= {(step, part) for step in range(SAVE + 2, STEPS) for part in range(8)}
    assert difference(run, alone, but=UNFELT) <= 1e-6
    losses = [[json.loads(line)["loss"] for line in lines(one)] for one in (run, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


if __name__ == "__main__":
    folders, shape, steps = list(map(pathlib.Path, sys.argv[1:3])), tuple(map(int, sys.argv[3:6])), int(sys.argv[6])
    keep_programs(folders[0] / "compiled")
    watch_batches(folders[1])
    main(*folders, shape, steps, float(sys.argv[7]))
