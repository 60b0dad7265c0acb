"""A run in a bucket equals the run in a local folder, bit for bit: killed, cut off from the bucket, and resumed.

The bucket is an emulator's, with the interface of Google Cloud Storage. Run as a program, this file is the run.
"""

import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import test_resume
from ml_collections import ConfigDict

from embed.data.discover import require_datasets
from embed.data.files import read_file
from embed.data.records import RecordError
from embed.data.sources import ArrayRecordSource, JsonlSource, open_split
from embed.data.writing import write_records
from embed.distributed import storage
from embed.distributed.mesh import make_mesh
from embed.embedder import Embedder
from embed.report.runs import read_curves
from embed.training import checkpoint, soup
from embed.training.main import run_script
from embed.training.metadata import read_metadata

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gcsfs", "gcp_storage_emulator"))),
    reason="needs gcsfs and an emulator, [test]",
)
RUN = "run"
RECORDS = [test_resume.Record(str(i), (test_resume.Text(f"number {i}"),), (test_resume.Text("x"),)) for i in range(5)]
SERVE = """
import sys
from gcp_storage_emulator.server import create_server
create_server("localhost", int(sys.argv[1]), in_memory=False, data_dir=sys.argv[2], default_bucket="bucket").run()
"""


class Emulator:
    """A server that can be stopped and started again with its objects."""

    def __init__(self, folder: pathlib.Path):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            self.port = free.getsockname()[1]
        self.folder, self.process = folder, None

    def start(self) -> None:
        command = [sys.executable, "-c", SERVE, str(self.port), str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                return socket.create_connection(("localhost", self.port)).close()
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    one = Emulator(tmp_path_factory.mktemp("objects"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            patch.setenv(name, f"http://localhost:{one.port}")
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "anyone")  # of tensorstore
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks the real service what kind of bucket it is
        patch.setenv("EMBED_CACHE", str(tmp_path_factory.mktemp("cache")))
        one.start()
        yield one
        one.stop()


@pytest.fixture(scope="module")
def data(emulator, tokenizer) -> storage.Path:
    folder = storage.path("gs://bucket/data")
    images = [test_resume.Image(test_resume.png(shade)) for shade in range(0, 240, 10)]
    pairs = zip(images, images[5:] + images[:5], strict=True)
    told = [test_resume.Text(f"a red square {i}") for i in range(len(images))]
    write_records(
        folder / "train.array_record",
        [test_resume.Record(text.text, (text,), (a,), ((b,),)) for text, (a, b) in zip(told, pairs, strict=True)],
    )
    tokenizer.save(folder / "tokenizer.json")
    return folder


def start(work: storage.Path, data: storage.Path, log: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, __file__, f"--config.workdir={work}", f"--config.data={data}", "--config.mesh=(1,1,1)"]
    root = pathlib.Path(__file__).parents[2]
    paths = [root, *(root / "tests" / name for name in ("", "training", "distributed"))]
    environment = os.environ | {"PYTHONPATH": ":".join(map(str, paths))}
    with log.open("a") as file:
        return subprocess.Popen(command, cwd=root, env=environment, stdout=file, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def here(data, tmp_path_factory) -> pathlib.Path:
    """The same run, uninterrupted, in a local folder."""
    folder = tmp_path_factory.mktemp("here")
    local = folder / "data"
    local.mkdir()
    for file in data.iterdir():
        (local / file.name).write_bytes(file.read_bytes())
    work = folder / "runs"
    work.mkdir()
    with jax.set_mesh(make_mesh((1, 1, 1))):
        fit(work, local)
    return work


@pytest.fixture(scope="module")
def there(data) -> storage.Path:
    """The run in the bucket, stopped in the middle and resumed."""
    work = storage.path("gs://bucket/runs")
    with jax.set_mesh(make_mesh((1, 1, 1))):
        test_resume.fit(work / RUN, data, steps=3 * test_resume.SAVE)
        fit(work, data)
    return work


def same_run(one: storage.Path, other: storage.Path) -> None:
    a, b = (dict(np.load(storage.local(work / "final.npz"))) for work in (one, other))
    assert a.keys() == b.keys() and any("opt" in name for name in a)
    assert not [name for name, leaf in a.items() if not np.array_equal(leaf, b[name])]
    rows, whole = (
        [json.loads(line) for line in (work / RUN / "metrics.jsonl").read_text().splitlines()] for work in (one, other)
    )
    assert [row["step"] for row in rows] == list(range(test_resume.STEPS))
    assert [(row["task"], row["loss"]) for row in rows] == [(row["task"], row["loss"]) for row in whole]
    assert read_curves(one / RUN) == read_curves(other / RUN)


def test_a_run_in_a_bucket_is_the_local_run_bit_for_bit(here, there):
    same_run(there, here)


@pytest.mark.slow
def test_killed_and_left_by_its_bucket_it_is_still_that_run(emulator, data, here, tmp_path):
    work, log = storage.path("gs://bucket/outage"), tmp_path / "log"
    process = start(work, data, log)
    while process.poll() is None and len(checkpoint.saved_steps(work / RUN)) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL, log.read_text()[-3000:]

    reached = checkpoint.saved_steps(work / RUN)[-1]
    process = start(work, data, log)
    while process.poll() is None and checkpoint.saved_steps(work / RUN)[-1] == reached:
        time.sleep(0.05)
    emulator.stop()
    status = process.wait(300)
    emulator.start()
    assert status == os.EX_TEMPFAIL, log.read_text()[-3000:]

    process = start(work, data, log)
    assert process.wait(300) == 0, log.read_text()[-3000:]
    same_run(work, here)
    said = log.read_text()
    assert "does not answer" in said and "asking again in 2 s" in said and said.count("resuming gs://bucket") == 2
    assert list((work / "compiled").iterdir())


FILES = {"checkpoints", "metrics.jsonl", "started.txt", "tensorboard", "tokenizer.json"}


def test_what_lies_in_a_run_lies_in_the_bucket(here, there):
    def names(folder):
        return {path.name for path in folder.iterdir()}

    assert names(there / RUN) == names(here / RUN) - {".lock"} == FILES  # a bucket has no lock
    assert checkpoint.saved_steps(there / RUN) == checkpoint.saved_steps(here / RUN)
    assert len(names(there / RUN / "tensorboard")) >= 2
    assert not list(pathlib.Path.cwd().glob("gs:*"))


def test_a_soup_and_an_embedder_read_and_write_the_bucket(here, there):
    made = []
    for run in (here / RUN, there / RUN):
        parents = [run / "checkpoints" / str(step) for step in checkpoint.saved_steps(run)[-2:]]
        soup.save(run.parent / "soup", soup.average(parents, [1.0, 1.0]), parents)
        made.append(Embedder.load(str(run.parent / "soup")))
    assert all(map(np.array_equal, jax.tree.leaves(made[0].encoder), jax.tree.leaves(made[1].encoder)))
    assert np.array_equal(*(one.embed(["a red square 3"]) for one in made))
    parents = read_metadata(there / "soup")["soup"]["parents"]
    assert all(name.startswith("gs://bucket/runs/run/checkpoints/") for name in parents)


def test_an_object_that_changes_is_copied_anew(data):
    file = storage.path("gs://bucket/changing/train.array_record")
    write_records(file, RECORDS[:2])
    first = storage.local(file)
    assert len(ArrayRecordSource(file)) == 2 and storage.local(file) == first
    storage._cached_copy.cache_clear()  # another process
    assert storage.local(file) == first
    write_records(file, RECORDS[3:])  # of the same size
    storage._cached_copy.cache_clear()
    assert storage.local(file) != first and len(open_split(file.parent, "train")) == 2
    assert ArrayRecordSource(file)[0] == RECORDS[3]
    assert require_datasets("gs://bucket", "train") == [
        storage.path("gs://bucket/changing"),
        storage.path("gs://bucket/data"),
    ]


def test_jsonl_with_media_is_read_inside_its_folder_alone(emulator):
    folder = storage.path("gs://bucket/jsonl/own")
    (folder / "media" / "a.png").write_bytes(test_resume.png(3))
    (folder.parent / "outside.png").write_bytes(test_resume.png(4))
    names = ["media/a.png", "../outside.png", "media/../../outside.png", "/gs/bucket/jsonl/outside.png", "media/b.png"]
    lines = [{"query": [{"text": "a"}], "positive": [{"image": name}]} for name in names]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = JsonlSource(folder, "train")
    assert source[0].positive[0].data == test_resume.png(3)
    for index in (1, 2, 3):
        with pytest.raises(RecordError, match="leaves the dataset folder gs://bucket/jsonl/own"):
            source[index]
    with pytest.raises(RecordError, match=r"train.jsonl:5: positive\[0\]: cannot read 'media/b.png'"):
        source[4]


def test_a_bucket_that_cannot_be_used_is_named_at_once(emulator, monkeypatch):
    with pytest.raises(storage.StorageError, match="gs://nothing/runs: bucket nothing does not exist; check its name"):
        storage.check_access(storage.path("gs://nothing/runs"))
    with pytest.raises(storage.StorageError, match="bucket nothing does not exist"):
        Embedder.load("gs://nothing/runs")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://localhost:1")
    with pytest.raises(
        storage.Unreachable, match=r"bucket bucket does not answer \(ConnectionError\); check the network"
    ):
        storage.check_access(storage.path("gs://bucket/runs"))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nothing/there.json")
    with pytest.raises(
        storage.StorageError, match=r"no access to bucket bucket \(.*/nothing/there.json.*\); this account"
    ):
        storage.check_access(storage.path("gs://bucket/runs"))


@pytest.mark.parametrize(
    ("name", "said"),
    [(pathlib.Path("gs://bucket/x"), "a slash is missing"), ("s3://bucket/x", "those of Google Cloud Storage")],
)
def test_other_remote_paths_are_refused(name, said):
    with pytest.raises(storage.StorageError, match=said):
        storage.path(name)


def test_what_fails_in_a_reachable_bucket_is_tried_again_and_then_said(emulator, caplog):
    calls = []

    def write() -> None:
        calls.append(len(calls))
        if len(calls) < fail:
            raise ValueError("not today")

    fail = storage.ATTEMPTS
    storage.with_retries(write, storage.path("gs://bucket/runs"))
    assert len(calls) == fail and caplog.text.count("could not be written (not today); trying again") == fail - 1
    calls, fail = [], 100
    with pytest.raises(storage.Unreachable, match="gs://bucket/runs could not be written: not today"):
        storage.with_retries(write, storage.path("gs://bucket/runs"))
    with pytest.raises(ValueError, match="not today"):
        storage.with_retries(write, pathlib.Path("runs"))


def fit(work: storage.Path, data: storage.Path) -> None:
    state = test_resume.fit(work / RUN, data, steps=test_resume.STEPS)
    leaves, _ = jax.tree_util.tree_flatten_with_path(vars(state))
    with storage.atomic_write(work / "final.npz") as file, file.open("wb") as out:
        np.savez(out, **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})


def main(config: ConfigDict) -> None:
    fit(storage.path(config.workdir), storage.path(config.data))


if __name__ == "__main__":
    storage.RETRY_SECONDS = 5.0
    run_script(main)


def test_a_file_of_a_bucket_is_what_its_name_says(emulator):
    """The copy that is read has another name."""
    path = storage.path("gs://bucket/files/photo.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(test_resume.png(9))
    assert read_file(path) == test_resume.Image(test_resume.png(9))
