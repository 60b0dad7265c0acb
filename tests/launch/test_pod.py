"""Launching on Cloud TPU and GKE, driven from end to end against stand-ins for gcloud and xpk (tests/launch/bin).

The stand-ins run what they are given: a worker is a folder of this machine, a preemption kills what runs there. Most
runs are of tests/launch/counter.py; one, marked slow, trains a small model on two workers, through a preemption.
"""

import fcntl
import http.server
import importlib.util
import json
import os
import pathlib
import re
import runpy
import shlex
import shutil
import signal
import site
import socket
import subprocess
import sys
import threading
import time

import pytest

from embed.training import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
STANDINS = ROOT / "tests" / "launch" / "bin"


def build(folder: pathlib.Path) -> None:
    """A repository of one commit with what a launch ships, and two experiments for it."""
    for part in ("launch", "embed", "configs", "experiments", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / "tests/launch/counter.py", folder / "experiments")
    shutil.copy(ROOT / "tests/launch/trains.py", folder / "experiments")
    for command in ("init --quiet", "add .", "-c user.name=t -c user.email=t@localhost commit --quiet -m all"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> pathlib.Path:
    """The repository, and image/: what a new worker's disk holds, an environment with all that setup.py asks for."""
    folder = tmp_path_factory.mktemp("template")
    build(folder / "tree")
    venv = folder / "image" / "embed" / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/*/site-packages")
    (packages / "outer.pth").write_text("\n".join(site.getsitepackages()))
    constraints = ROOT / "launch" / "constraints" / f"python{sys.version_info[0]}.{sys.version_info[1]}.txt"
    installed = [path.read_bytes() for path in (ROOT / "setup.py", constraints) if path.exists()]
    (venv / "installed[tpu]").write_bytes(b"".join(installed))
    return folder


class Cloud:
    """A Google Cloud of this test alone, and a tree to launch from."""

    def __init__(self, template: pathlib.Path, folder: pathlib.Path):
        self.folder, self.tree, self.work = folder / "cloud", folder / "tree", folder / "runs"
        shutil.copytree(template / "tree", self.tree, symlinks=True)
        shutil.copytree(template / "image", self.folder / "image", symlinks=True)
        theirs = ("PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS", "PYTHON", "VENV", "CONSTRAINTS")
        clean = {k: v for k, v in os.environ.items() if k not in theirs}
        self.environment = clean | {
            "PATH": f"{STANDINS}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
            "CLOUD": str(self.folder), "CLUSTER": "tpus", "TPU": "v5litepod-16", "ZONE": "us-west4-a",
            "POLL": "0.2", "PAUSE": "0",
        }  # fmt: skip
        self.log, self.gate = folder / "output.txt", folder / "gate"
        self.started: list[subprocess.Popen] = []

    def begin(self, *words: str, script: str = "pod.sh", **environment: str) -> subprocess.Popen:
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [f"launch/{script}", *words], cwd=self.tree, env=self.environment | environment,
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *words: str, script: str = "pod.sh", **environment: str) -> tuple[int, str]:
        """Status and output."""
        before = len(self.said())
        status = self.begin(*words, script=script, **environment).wait(120)
        return status, self.said()[before:]

    def count(self, *flags: str) -> list[str]:
        return ["counter", f"--config.workdir={self.work}", *flags]

    def long(self, *flags: str) -> list[str]:
        """A run that ends when the test opens the gate."""
        return self.count(f"--config.until={self.gate}", *flags)

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait(self, pattern: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.said()):
            assert time.monotonic() < end, f"{pattern!r} never came:\n{self.said()}"
            time.sleep(0.02)

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def workers(self) -> list[pathlib.Path]:
        return sorted(self.folder.glob("nodes/embed/worker-*"))

    def logs(self) -> list[str]:
        return [(home / "embed/runs/worker/log").read_text() for home in self.workers()]

    def kill(self, homes: list[pathlib.Path]) -> None:
        """What a machine's end does to everything on it."""
        wanted, found = {f"HOME={home}".encode() for home in homes}, True
        while found:  # one may be born while others are killed
            found = False
            for process in pathlib.Path("/proc").glob("[0-9]*"):
                try:
                    if wanted & set((process / "environ").read_bytes().split(b"\0")):
                        os.kill(int(process.name), signal.SIGKILL)
                        found = True
                except OSError:
                    continue

    def preempt(self, request: str, node: str) -> None:
        path = self.folder / "state.json"
        with (self.folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = json.loads(path.read_text())
            state["embed"] |= {"state": request, "node": node}
            path.write_text(json.dumps(state))
        self.kill(self.workers())


@pytest.fixture
def cloud(template, tmp_path):
    cloud = Cloud(template, tmp_path)
    yield cloud
    for process in cloud.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    cloud.kill([*cloud.workers(), cloud.folder / "app"])


def test_from_nothing_to_the_end(cloud):
    status, said = cloud.run(*cloud.count("--config.steps=8"))
    assert status == 0, said
    requests = re.findall(r"request (\w+), node (\w+)", said)
    states = ["none", "PROVISIONING", "ACTIVE", "ACTIVE"]
    assert [request for request, _ in requests] == states and requests[-1][1] == "READY"
    assert re.findall(r"^step (\d+)/8$", said, re.M) == [
        str(n) for n in range(1, 9)
    ]  # one worker's log, each line once
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=cloud.tree, capture_output=True, text=True).stdout
    assert len(cloud.workers()) == 2
    for home in cloud.workers():
        assert (home / "embed/COMMIT").read_text() == head
        assert (home / "embed/runs/worker/status").read_text() == "0\n"
    assert "launch/pod.sh delete" in said
    assert cloud.run("status")[1].count(" ended 0\n") == 2
    assert cloud.run("delete")[0] == 0 and not cloud.workers()
    assert "request none, node none" in cloud.run("status")[1]


def test_a_new_commit_takes_the_place_of_the_old_one_on_the_same_slice(cloud):
    assert cloud.run(*cloud.count("--config.steps=2"))[0] == 0
    kept = [home / "embed/runs/kept" for home in cloud.workers()]
    for path in kept:
        path.write_text("")
    commit = "rm experiments/recipe.py; echo 'print(\"changed\")' >>experiments/counter.py; git add ."
    commit += "; git -c user.name=t -c user.email=t@localhost commit -qm changed"
    subprocess.run(["bash", "-c", commit], cwd=cloud.tree, check=True)
    status, said = cloud.run(*cloud.count("--config.steps=4"))
    assert status == 0 and re.findall(r"^(?:step|resuming|changed).*", said, re.M)[1:] == [
        "step 3/4",
        "step 4/4",
        "changed",
    ]
    assert all(path.exists() for path in kept)
    assert not any((home / "embed/experiments/recipe.py").exists() for home in cloud.workers())
    assert sum(call[2:4] == ["queued-resources", "create"] for call in cloud.calls()) == 1


@pytest.mark.parametrize("states", [("SUSPENDED", ""), ("ACTIVE", "PREEMPTED")])
def test_preempted_in_mid_run(cloud, states):
    process = cloud.begin(*cloud.long("--config.steps=20", "--config.save=3"), SPOT="1")
    cloud.wait("step 7/20")
    cloud.preempt(*states)
    cloud.gate.touch()
    assert process.wait(60) == 0, cloud.said()
    said = cloud.said()
    (resumed,) = map(int, re.findall(r"resuming .* at step (\d+)", said))
    assert resumed >= 6 and resumed % 3 == 0
    assert re.findall(r"^step (\d+)/20$", said, re.M)[-20 + resumed :] == [str(n) for n in range(resumed + 1, 21)]
    creates = [call for call in cloud.calls() if call[2:4] == ["queued-resources", "create"]]
    assert len(creates) == 2 and all("--spot" in call for call in creates)


def test_a_worker_that_went_down_alone_is_started_again(cloud):
    process = cloud.begin(*cloud.long("--config.steps=20"))
    cloud.wait("step 5/20")
    cloud.kill(cloud.workers()[1:])
    while cloud.logs()[1].count(" runs counter ") < 2:
        assert process.poll() is None, cloud.said()
        time.sleep(0.02)
    cloud.gate.touch()
    assert process.wait(60) == 0, cloud.said()
    logs = cloud.logs()
    assert [log.count(" runs counter ") for log in logs] == [1, 2]
    assert re.findall(r"^step (\d+)/20$", cloud.said(), re.M) == [str(n) for n in range(1, 21)]


def test_ctrl_c_leaves_the_run_and_the_same_command_follows_it(cloud):
    words = cloud.long("--config.steps=20")
    first = cloud.begin(*words)
    cloud.wait("step 3/20")
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(20) == 130 and "continues" in cloud.said()
    status, said = cloud.run(*words, "--config.seconds=0.2")  # another run
    assert status == 2 and "runs something else" in said
    second = cloud.begin(*words)
    third = cloud.begin(*words)
    cloud.wait("(?s)(counter is running on embed: following it.*){2}")
    cloud.gate.touch()
    assert second.wait(60) == 0 and third.wait(60) == 0
    logs = cloud.logs()
    assert [log.count(" runs counter ") for log in logs] == [1, 1]
    assert "resuming" not in cloud.said()


def test_a_dropped_connection_neither_repeats_nor_loses_lines(cloud):
    process = cloud.begin(*cloud.count("--config.steps=30"), POLL="0.8")
    (cloud.folder / "drops").touch()
    assert process.wait(60) == 0
    assert re.findall(r"^step (\d+)/30$", cloud.said(), re.M) == [str(n) for n in range(1, 31)]


def test_stop_then_on(cloud):
    words = cloud.long("--config.steps=20", "--config.save=100")
    process = cloud.begin(*words)
    cloud.wait("step 4/20")
    assert cloud.run("stop")[0] == 0
    assert process.wait(30) == 75 and "stopped" in cloud.said()
    status, said = cloud.run("stop")  # nothing to stop is no error
    assert status == 0 and said.count(" ended 75\n") == 2
    cloud.gate.touch()
    status, said = cloud.run(*words)
    assert status == 0, said
    steps = re.findall(r"^step (\d+)/20$", cloud.said(), re.M)
    assert steps == [str(n) for n in range(1, 21)]  # it saved where it was


def test_deleted_while_followed_is_not_asked_for_again(cloud):
    process = cloud.begin(*cloud.count("--config.steps=600"))
    cloud.wait("step 2/600")
    assert cloud.run("delete")[0] == 0
    assert process.wait(30) == 2 and "embed was deleted" in cloud.said()
    assert sum(call[2:4] == ["queued-resources", "create"] for call in cloud.calls()) == 1


def test_stopping_twice_ends_what_does_not_listen(cloud):
    process = cloud.begin(*cloud.count("--config.steps=600", "--config.deaf=1"))
    cloud.wait("step 2/600")
    stop = cloud.begin("stop")
    cloud.wait("step 12/600")
    assert stop.poll() is None
    assert cloud.run("stop")[0] == 0
    assert process.wait(30) == 137 and stop.wait(30) == 0


def test_the_status_of_the_worker_that_failed_comes_back(cloud):
    flags = ["--config.steps=600", "--config.at=3", "--config.status=7", "--config.worker=1"]
    status, said = cloud.run(*cloud.count(*flags))
    assert status == 7 and "stopping the others" in said
    statuses = [(home / "embed/runs/worker/status").read_text() for home in cloud.workers()]
    assert statuses == ["75\n", "7\n"]


def test_a_request_that_fails_is_said_and_not_repeated(cloud):
    (cloud.folder / "fails").touch()
    status, said = cloud.run(*cloud.count("--config.steps=2"))
    assert status == 2 and "the request for embed failed" in said
    assert sum(call[2:4] == ["queued-resources", "create"] for call in cloud.calls()) == 1
    (cloud.folder / "fails").unlink()
    assert cloud.run(*cloud.count("--config.steps=2"))[0] == 0  # what failed is cleared away
    status, said = cloud.run(*cloud.count("--config.steps=2"), TPU="v6e-256")
    assert status == 2 and "embed is a v5litepod-16, not a v6e-256" in said


@pytest.mark.parametrize("script", ["pod.sh", "gke.sh"])
@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        ("touch embed/new.py", ["counter", "--config.workdir=gs://b"], "?? embed/new.py"),
        ("echo >>setup.py", ["counter", "--config.workdir=gs://b"], " M setup.py"),
        ("true", ["nothing", "--config.workdir=gs://b"], "there is no experiment nothing"),
        ("true", ["../tests/conftest", "--config.workdir=gs://b"], "there is no experiment ../tests/conftest"),
        ("true", ["counter"], "--config.workdir=gs://BUCKET/runs"),
        ("true", [], "usage"),
    ],
)
def test_what_cannot_be_launched_is_refused_before_anything_is_asked(cloud, script, spoil, words, said):
    subprocess.run(["bash", "-c", spoil], cwd=cloud.tree, check=True)
    status, output = cloud.run(*words, script=script)
    assert status == 2 and said in output and not cloud.calls()


def test_dry_run_prints_what_gcloud_takes_and_runs_nothing(cloud, monkeypatch):
    status, said = cloud.run("--dry-run", "counter", "--config.workdir=gs://b/a run", PROJECT="mine", SPOT="1")
    assert status == 0 and not cloud.calls(), said
    commands = [shlex.split(line) for line in said.splitlines()]
    monkeypatch.setenv("CLOUD", str(cloud.folder))
    parse = runpy.run_path(str(STANDINS / "gcloud"))["parse"]
    verbs = [parse(words[1:])[0] for words in commands if words[0] == "gcloud"]
    assert len(verbs) == len(commands) - 1  # and one git archive
    order = ["queued-resources create", "tpu-vm describe", "tpu-vm scp", "tpu-vm ssh"]
    assert sorted(map(verbs.index, order[:3])) == [verbs.index(verb) for verb in order[:3]] and verbs[-1] == order[3]
    assert all("--project=mine" in words and "--zone=us-west4-a" in words for words in commands if words[0] == "gcloud")
    (start,) = (words for words in commands if any(" start " in word for word in words))
    inner = next(word for word in start if word.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(inner)[1:] == ["start", "counter", "--config.workdir=gs://b/a run"]
    for verb in ("status", "stop", "delete"):
        status, said = cloud.run("--dry-run", verb)
        assert status == 0 and all(parse(shlex.split(line)[1:]) for line in said.splitlines()[:1]) and not cloud.calls()


IGNORED = "echo experiments/counter.py >>.gitignore; git rm -q --cached experiments/counter.py; git add .gitignore"
IGNORED += "; git -c user.name=t -c user.email=t@localhost commit -qm ignored"


@pytest.mark.parametrize("script", ["pod.sh", "gke.sh"])
@pytest.mark.parametrize("spoil", ["touch embed/new.py; echo >>setup.py", "rm -rf .git", IGNORED])
def test_dry_run_of_an_uncommitted_tree_says_that_a_launch_is_refused(cloud, script, spoil):
    subprocess.run(["bash", "-c", spoil], cwd=cloud.tree, check=True)
    words = cloud.count("--config.steps=6")
    refused, reason = cloud.run(*words, script=script)
    assert refused == 2 and reason.startswith("a launch runs a commit")
    status, said = cloud.run("--dry-run", *words, script=script)
    warning = f"without --dry-run, this is refused: {reason}"
    assert status == 0 and said.startswith(warning) and not cloud.calls()
    commands = [shlex.split(line)[0] for line in said.removeprefix(warning).splitlines()]
    assert commands[-1] == {"pod.sh": "gcloud", "gke.sh": "xpk"}[script]
    assert set(commands) <= {"gcloud", "git", "mkdir", "tar", "xpk"}


@pytest.mark.parametrize("room", ["ablations", "studies"])
def test_forks_and_studies_are_found_by_their_name(cloud, room):
    """The worker runs the module in its own package."""
    move = f"git mv experiments/counter.py experiments/{room}/counter__fork.py"
    move += f"; echo 'print(\"module\", __spec__.name)' >>experiments/{room}/counter__fork.py; git add ."
    move += "; git -c user.name=t -c user.email=t@localhost commit -qm moved"
    subprocess.run(["bash", "-c", move], cwd=cloud.tree, check=True)
    status, said = cloud.run("counter__fork", *cloud.count("--config.steps=2")[1:])
    assert status == 0 and f"\nmodule experiments.{room}.counter__fork\n" in said


@pytest.mark.parametrize(
    "words",
    [
        "compute tpus queued-resources create a --zone=z --node-id=a --runtime-version=v",
        "compute tpus queued-resources create a --zone=z --node-id=a --runtime-version=v --accelerator-type=t --sot",
        "compute tpus tpu-vm ssh a --zone=z --batch-size=4",
        "compute tpus tpu-vm ssh a",
        "compute tpus queued-resources remove a --zone=z",
        "compute tpus queued-resources delete a --zone=z --force=yes",
    ],
)
def test_the_stand_in_refuses_what_is_not_documented(cloud, words):
    done = subprocess.run([STANDINS / "gcloud", *words.split()], env=cloud.environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("ERROR")


@pytest.fixture
def worker(cloud):
    """Runs launch/worker.sh of a tree that has been shipped."""
    shutil.copytree(cloud.folder / "image/embed/.venv", cloud.tree / ".venv", symlinks=True)

    def begin(*flags: str, **environment: str) -> subprocess.Popen:
        return cloud.begin(*cloud.count(*flags), script="worker.sh", **environment)

    return begin


def test_a_worker_runs_again_while_there_is_progress(cloud, worker):
    assert worker("--config.steps=9", "--config.at=1", "--config.status=75", TRIES="2").wait(60) == 0
    assert re.findall(r"^step (\d+)/9$", cloud.said(), re.M) == [str(n) for n in range(1, 10)]
    assert (cloud.tree / "runs/worker/status").read_text() == "0\n"


def test_what_a_worker_takes_for_progress_is_what_training_says():
    said = re.search(r"'(resuming .*)' \"\$folder", (ROOT / "launch/worker.sh").read_text())[1]
    line = re.search(r'"(resuming .*?)"', (ROOT / "embed/training/start.py").read_text())[1]
    assert re.fullmatch(said, line % ("gs://bucket/runs/scale", 500))


def test_a_worker_gives_up_without_progress(cloud, worker):
    assert (
        worker("--config.steps=9", "--config.save=5", "--config.at=2", "--config.status=75", TRIES="3").wait(60) == 75
    )
    assert cloud.said().count("step 2/9") == 3 and "giving up" in cloud.said()
    assert (cloud.tree / "runs/worker/status").read_text() == "75\n"


def test_any_other_status_ends_a_worker(cloud, worker):
    assert worker("--config.steps=9", "--config.at=2", "--config.status=3").wait(60) == 3
    assert cloud.said().count("step 1/9") == 1


def test_sigterm_reaches_the_experiment_and_is_not_run_again(cloud, worker):
    process = worker("--config.steps=600", "--config.save=1000")
    cloud.wait("step 3/600")
    process.terminate()  # worker.sh alone
    assert process.wait(30) == 75 and "stopped" in cloud.said()
    assert int((cloud.work / "counter").read_text()) == cloud.said().count("step ")


def test_a_preemption_notice_in_the_metadata_is_a_sigterm(cloud, worker):
    server = http.server.HTTPServer(("localhost", 0), Metadata)
    server.number, server.preempted = 0, "FALSE"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    process = worker("--config.steps=600", "--config.save=1000", GCE_METADATA_HOST=f"localhost:{server.server_port}")
    cloud.wait("step 3/600")
    assert process.poll() is None
    server.preempted = "TRUE"
    assert process.wait(60) == 75 and "this machine is about to be preempted" in cloud.said()
    assert int((cloud.work / "counter").read_text()) == cloud.said().count("step ")
    server.shutdown()


def test_a_second_worker_beside_the_first_is_refused(cloud, worker):
    first = worker("--config.steps=600")
    cloud.wait("step 3/600")
    log = (cloud.tree / "runs/worker/log").read_text()
    assert worker("--config.steps=5").wait(30) == 1 and "another run" in cloud.said()
    assert (cloud.tree / "runs/worker/log").read_text().startswith(log)
    first.terminate()
    assert first.wait(30) == 75


def test_gke_runs_the_same_worker(cloud):
    flags = cloud.count("--config.steps=6", "--config.at=2", "--config.status=75")
    status, said = cloud.run(*flags, script="gke.sh", TRIES="1")
    assert status == 0, said
    # The worker gives up at once (TRIES), the JobSet starts it again as status 75 may be, and there is progress.
    assert re.findall(r"EXIT_CODE=(\d+)", said) == ["75", "0"]
    assert re.findall(r"^step (\d+)/6$", said, re.M) == [str(n) for n in range(1, 7)]
    (create,) = cloud.calls()
    assert {"--cluster=tpus", "--zone=us-west4-a", "--tpu-type=v5litepod-16", "--num-slices=1"} <= set(create)
    assert "embed 0" in cloud.run("status", script="gke.sh")[1]
    assert cloud.run("delete", script="gke.sh")[0] == 0 and not list(cloud.folder.glob("*.status"))


def test_gke_dry_run(cloud):
    status, said = cloud.run("--dry-run", *cloud.count("--config.steps=6"), script="gke.sh")
    assert status == 0 and not cloud.calls()
    assert [shlex.split(line)[0] for line in said.splitlines()] == ["git", "mkdir", "tar", "xpk"]


class Metadata(http.server.BaseHTTPRequestHandler):
    """What a TPU VM can ask about itself, by the last part of the path; the server is of one worker."""

    def do_GET(self):
        answers = {"agent-worker-number": str(self.server.number), "worker-network-endpoints": "localhost,localhost"}
        answers["preempted"] = getattr(self.server, "preempted", "FALSE")
        answer = answers.get(self.path.rsplit("/", 1)[-1], "")
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_):
        pass


@pytest.mark.skipif(importlib.util.find_spec("requests") is None, reason="asking a TPU VM needs the extra [tpu]")
def test_workers_of_a_tpu_vm_find_each_other():
    """JAX asks the machine's metadata in its own way; the test only tells it that this is a TPU VM."""
    code = (
        "import os, jax; del os.environ['TPU_SKIP_MDS_QUERY']; from embed.training.startup import join_pod; join_pod();"
    )
    code += "print(jax.process_index(), jax.process_count())"
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = str(s.getsockname()[1])
    servers = [http.server.HTTPServer(("localhost", 0), Metadata) for _ in range(2)]
    processes = []
    for number, server in enumerate(servers):
        server.number = number
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | {
            "EMBED_POD": "1", "JAX_FORCE_TPU_INIT": "1", "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_PORT": port,
            "GCE_METADATA_IP": f"localhost:{server.server_port}", "TPU_SKIP_MDS_QUERY": "1",
        }  # fmt: skip
        command = [sys.executable, "-c", code]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=100)[0] for process in processes]
    for server in servers:
        server.shutdown()
        server.server_close()
    assert [lines.splitlines()[-1] for lines in said] == ["0 2", "1 2"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck, which the extra [test] brings")
def test_shellcheck():
    scripts = [*ROOT.glob("launch/*.sh"), ROOT / ".ci" / "run"]
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_training_goes_on_through_a_preemption(cloud, tmp_path):
    import test_hosts

    test_hosts.prepare(tmp_path / "data")
    words = [f"--config.workdir={cloud.work}", f"--config.data={tmp_path / 'data'}"]
    more = {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu", "POLL": "1"}
    process = cloud.begin("trains", *words, **more)
    run = cloud.work / "trains"
    while not checkpoint.saved_steps(run):
        assert process.poll() is None, cloud.said()
        time.sleep(0.05)
    cloud.preempt("SUSPENDED", "")
    assert process.wait(300) == 0, cloud.said()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in row for row in rows) == test_hosts.STEPS
    assert re.search(r"resuming .* at step \d+", cloud.said())
