"""Faults of a pod, provoked: a signal, a full disk, a corrupt checkpoint, a changed run.

Lost buckets are in test_storage.py, hosts that die or hang in test_hosts.py. Run as a program, this file is the run
that is signalled or starved.
"""

import dataclasses
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
import optax
import pytest
from conftest import ARCH
from test_loop import GOOD, Records, fit, loss, rows

from configs import cpu
from embed.data.preprocess import Preprocessor
from embed.data.tokenizer import Tokenizer
from embed.distributed import storage
from embed.distributed.mesh import make_mesh
from embed.distributed.preemption import RESTART_STATUS
from embed.model.build import build
from embed.training import checkpoint, flops, loop, optim
from embed.training.errors import USER_ERROR_STATUS
from embed.training.main import run_script
from embed.training.program import strip_prose
from embed.training.weights import load_params, save_params

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 400
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


class SlowRecords(Records):
    def __getitem__(self, index: int):
        time.sleep(0.02)
        return super().__getitem__(index)


def plan(config) -> loop.Run:
    return loop.Run(
        build(ARCH, remat=False), [GOOD], loss,
        optim.adamw(1e-2, warmup=1, steps=100), steps=config.steps or STEPS, seed=0,
        data=pathlib.Path(config.data), folder=pathlib.Path(config.workdir) / "run",
        loop=loop.LoopConfig(save=config.save, keep=config.keep, workers=config.workers),
        metadata={"experiment": "faults", "config": config.to_dict()},
    )  # fmt: skip


def main(config) -> None:
    preprocessor = Preprocessor(Tokenizer.load(pathlib.Path(config.data) / "tokenizer.json"), ARCH.media)
    loop.fit(plan(config), preprocessor, [SlowRecords()])


def start(data: pathlib.Path, work: pathlib.Path, *flags: str, before: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [sys.executable, __file__, f"--config={ROOT}/configs/cpu.py", f"--config.workdir={work}"]
    command += [f"--config.data={data}", "--config.mesh=(1, 1, 1)", *flags]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([*before, *command], env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def data(tmp_path, tokenizer) -> pathlib.Path:
    tokenizer.save(tmp_path / "tokenizer.json")
    return tmp_path


@pytest.mark.parametrize(
    ("sign", "status", "message"),
    [
        (signal.SIGTERM, RESTART_STATUS, "run was asked to stop and is saved at step {}; the same command continues"),
        (signal.SIGINT, 1, "run was interrupted and is saved at step {}"),
    ],
)
def test_asked_to_stop_it_saves_that_step_and_the_same_command_continues(data, tmp_path, sign, status, message):
    """SIGTERM comes to a TPU VM half a minute before it is preempted, SIGINT is Ctrl-C."""
    run = tmp_path / "work" / "run"
    process = start(data, tmp_path / "work", "--config.save=1000")
    while process.poll() is None and (not (run / "metrics.jsonl").exists() or len(rows(run)) < 3):
        time.sleep(0.05)
    process.send_signal(sign)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == status and RESTART_STATUS == 75, said
    reached = len(rows(run))
    assert checkpoint.saved_steps(run) == [reached] and reached < STEPS
    assert message.format(reached) in said and "Traceback" not in said

    process = start(data, tmp_path / "work", f"--config.steps={reached + 2}")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0 and f"at step {reached}" in said
    assert [row["step"] for row in rows(run)] == list(range(reached + 2))
    assert all(0 <= row["goodput"] <= 1 for row in rows(run))


def test_a_second_process_in_one_folder_is_refused_and_a_killed_one_keeps_nobody_away(data, tmp_path, preprocessor):
    run = tmp_path / "work" / "run"
    # Worker processes outlive one that is killed, and hold what it had open.
    first = start(data, tmp_path / "work", "--config.save=2", "--config.workers=1", before=("setsid",))
    try:
        while first.poll() is None and len(checkpoint.saved_steps(run)) < 1:
            time.sleep(0.05)
        second = start(data, tmp_path / "work", "--config.save=2")
        said = second.communicate(timeout=300)[1]
        assert second.returncode == USER_ERROR_STATUS and "Traceback" not in said, said
        assert f"error: {run}: another process is writing there (process {first.pid} on " in said.splitlines()[-1]
        with pytest.raises(storage.StorageError, match="another process is writing there"):
            save_params(run, {}, {}, preprocessor.tokenizer)
        assert first.poll() is None
        first.kill()
        first.wait()
        reached = checkpoint.saved_steps(run)[-1]
        third = start(data, tmp_path / "work", f"--config.steps={reached + 2}", "--config.save=2")
        said = third.communicate(timeout=300)[1]
        assert third.returncode == 0 and f"at step {reached}" in said, said
        assert [row["step"] for row in rows(run)] == list(range(reached + 2))
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()


def test_a_full_disk_is_said_and_the_last_whole_checkpoint_stays(data, tmp_path):
    work = tmp_path / "disk"
    work.mkdir()
    if subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", work], capture_output=True).returncode:
        pytest.skip("a small disk needs unshare and a user namespace that may mount one")
    # A disk of 6 MB for checkpoints of 0.5 MB, none of which is deleted; what is left is copied out of the namespace.
    script = f'mount -t tmpfs -o size=6m none {work}; "$@"; status=$?; cp -r {work}/run {tmp_path}/left; exit $status'
    before = (*NAMESPACE, "sh", "-c", script, "sh")
    process = start(data, work, "--config.save=1", "--config.keep=1000", before=before)
    said = process.communicate(timeout=200)[1]
    assert process.returncode == USER_ERROR_STATUS, said
    assert f"error: {work}/run: no space is left on its disk" in said, said
    whole = checkpoint.saved_steps(tmp_path / "left")
    assert whole and load_params(tmp_path / "left" / "checkpoints" / str(whole[-1]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer) -> pathlib.Path:
    """A run with checkpoints at its steps 1 and 2."""
    folder = tmp_path_factory.mktemp("faults") / "run"
    with jax.set_mesh(make_mesh((1, 1, 1))):
        fit(folder, Preprocessor(tokenizer, ARCH.media), [GOOD], [Records()], steps=2)
    return folder


FILES = ("_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt", "state/ocdbt.process_0/d/*")


@pytest.mark.parametrize("pattern", FILES)
def test_a_checkpoint_that_is_not_whole_is_put_aside_for_the_one_before(
    trained, tmp_path, preprocessor, caplog, pattern
):
    caplog.set_level(logging.INFO)
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for file in (run / "checkpoints" / "2").glob(pattern):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    straight = fit(tmp_path / "straight", preprocessor, [GOOD], [Records()], steps=3)
    resumed = fit(run, preprocessor, [GOOD], [Records()], steps=3)
    assert "checkpoints/2 cannot be read" in caplog.text and f"resuming {run} at step 1" in caplog.text
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.array_equal(a, b), resumed, straight))
    assert checkpoint.saved_steps(run) == [1, 2, 3] and (run / "checkpoints" / "unreadable-2").is_dir()


def test_where_no_checkpoint_is_whole_nothing_starts_anew(trained, tmp_path, preprocessor):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for step in (1, 2):
        (run / "checkpoints" / str(step) / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint of .* can be read; steps \[2, 1\] are now"):
        fit(run, preprocessor, [GOOD], [Records()], steps=3)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"unreadable-1", "unreadable-2"}


def test_a_save_that_was_killed_is_written_again(trained, tmp_path, preprocessor):
    """In a bucket nothing is renamed: a save that was killed has its final name, but no commit_success.txt."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "checkpoints" / "2" / "commit_success.txt").unlink()
    assert int(fit(run, preprocessor, [GOOD], [Records()], steps=3).step) == 3
    assert checkpoint.saved_steps(run) == [1, 2, 3]


def test_a_changed_experiment_is_refused_by_what_changed(tmp_path, preprocessor):
    config = cpu.get_config()
    config.update({"workdir": str(tmp_path), "steps": 1, "save": 1})
    file = tmp_path / "small.py"
    file.write_text('"""What it is."""\nTEMPERATURE = 0.05\nSTEPS = 10\n')

    def go(steps=1, **changes):
        run = dataclasses.replace(
            plan(config), metadata={"program": {"small": strip_prose(file.read_text())}}, steps=steps, **changes
        )
        loop.fit(run, preprocessor, [Records()])

    go()
    file.write_text('"""What it is, said better."""\n\nTEMPERATURE = 0.05  # tuned\nSTEPS = 10\n')
    config.update({"save": 2, "microbatch": 7, "workdir": str(tmp_path)})
    go(steps=2)  # words and hardware may change
    saved = rows(tmp_path / "run")

    file.write_text("TEMPERATURE = 0.02\nSTEPS = 10\n")
    with pytest.raises(checkpoint.CheckpointError) as error:
        go(steps=3)
    assert "program.small: -TEMPERATURE = 0.05" in str(error.value)
    assert "program.small: +TEMPERATURE = 0.02" in str(error.value) and "STEPS" not in str(error.value)
    file.write_text("TEMPERATURE = 0.05\nSTEPS = 10\n")

    for said, changes in {
        "seed was 0 and is 1": {"seed": 1},
        "tasks[0].weight was 1.0 and is 2.0": {"tasks": [dataclasses.replace(GOOD, weight=2.0)]},
        "dtype was 'float32' and is 'bfloat16'": {"encoder": build(ARCH, jnp.bfloat16, remat=False)},
        "optimizer was": {"optimizer": optax.apply_if_finite(optax.sgd(1.0), 9)},
    }.items():
        with pytest.raises(checkpoint.CheckpointError, match="of another run than this one") as error:
            go(steps=3, **changes)
        assert said in str(error.value)
    assert rows(tmp_path / "run") == saved  # nothing was touched


def test_what_a_run_gets_out_of_its_machine(tmp_path, preprocessor, monkeypatch):
    chip = dataclasses.replace(next(iter(flops.CHIPS.values())), flops=1e9)
    monkeypatch.setitem(flops.CHIPS, jax.devices()[0].device_kind, chip)
    fit(tmp_path, preprocessor, [GOOD], [Records()], steps=3)
    log = rows(tmp_path)
    segments = 4 * 2 * 8  # rows of both sides, with their tokens
    for row in log:
        assert row["padding"] == pytest.approx(1 - row["tokens"] / segments)
        assert row["pairs_per_s"] == pytest.approx(4 / row["seconds"])
        assert row["tokens_per_s"] == pytest.approx(row["tokens"] / row["seconds"])
        assert row["waited"] <= row["seconds"] and row["mfu"] > 0
    assert log[0]["productive_seconds"] == 0 and log[0]["goodput"] == 0  # it compiled
    assert 0 < log[2]["goodput"] < 1
    before = log[2]["goodput"]
    time.sleep(1.5 * (log[0]["seconds"] + log[1]["seconds"]))  # away
    fit(tmp_path, preprocessor, [GOOD], [Records()], steps=4)
    assert rows(tmp_path)[3]["goodput"] < before


if __name__ == "__main__":
    run_script(main)
