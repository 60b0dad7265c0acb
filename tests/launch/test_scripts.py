"""What every script does with --help, with an old bash and with a mistake, and which files git ignores."""

import itertools
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Script -> variables that its --help explains.
SCRIPTS = {
    "constraints.sh": ("PYTHON",),
    "environment.sh": ("PYTHON", "VENV", "CONSTRAINTS"),
    "foundation.sh": ("FROM", "PYTHON", "--config.pairs"),
    "gke.sh": ("CLUSTER", "TPU", "ZONE", "PROJECT", "WORKLOAD", "SLICES", "PRIORITY", "RESTARTS", "IMAGE"),
    "pod.sh": ("TPU", "ZONE", "PROJECT", "SPOT", "POD", "POLL", "status", "stop", "delete", "--dry-run"),
    "quickstart.sh": ("PYTHON", "--config.pairs"),
    "remote.sh": ("start", "state", "log", "stop"),
    "simulate.sh": ("DEVICES", "HOSTS", "MODULE"),
    "test.sh": ("PYTHON", '-m ""'),
    "worker.sh": ("TRIES", "PAUSE"),
}
# For each module, a file with the status and the output of --help.
HELP_OF_MODULES = """
import os, pathlib, runpy, sys
import embed.embedder, embed.training.main
folder, *modules = sys.argv[1:]
for module in modules:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.argv = [module, "--help"]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit(0)
    os.close(writer)
    output = open(reader).read()
    pathlib.Path(folder, module).write_text(f"{os.waitpid(child, 0)[1]}\\n{output}")
"""
NEED_NEW_BASH = {"gke.sh": ["scale"], "pod.sh": ["scale"], "simulate.sh": ["2", "experiments.finetune"]}


@pytest.fixture
def tree(tmp_path) -> pathlib.Path:
    """A copy of what the scripts need to begin."""
    folder = tmp_path / "tree"
    for part in ("launch", "experiments"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run(command: list, folder: pathlib.Path, **options) -> tuple[int, str]:
    """Status and output."""
    done = subprocess.run(
        list(map(str, command)), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        **options,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_every_script_is_listed():
    sourced = {"common.sh", "shell.sh"}
    assert {path.name for path in ROOT.glob("launch/*.sh")} == set(SCRIPTS) | sourced


@pytest.mark.parametrize(("script", "flag"), [*((script, "--help") for script in SCRIPTS), ("worker.sh", "-h")])
def test_help_explains_and_does_nothing(tree, tmp_path, script, flag):
    before = sorted(tree.rglob("*"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    status, output = run([tree / "launch" / script, flag], elsewhere)
    assert status == 0 and f"launch/{script}" in output.splitlines()[0]
    assert all(name in output for name in SCRIPTS[script]) and "shellcheck" not in output and "#" not in output
    assert sorted(tree.rglob("*")) == before and not list(elsewhere.iterdir())


@pytest.mark.parametrize("script", ["worker.sh", "pod.sh", "gke.sh", "quickstart.sh", "foundation.sh"])
def test_help_after_other_arguments_does_nothing_either(tree, script):
    status, output = run([tree / "launch" / script, "finetune", "--help"], tree)
    assert status == 0 and f"launch/{script}" in output.splitlines()[0]
    assert not (tree / "runs").exists() and not (tree / ".venv").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["worker.sh"], "usage: launch/worker.sh NAME"),
        (["worker.sh", "finetun"], "there is no experiment finetun;"),
        (["remote.sh"], "usage: launch/remote.sh start NAME"),
        (["remote.sh", "sate"], "usage: launch/remote.sh start NAME"),
        (["simulate.sh", "2"], "usage: launch/simulate.sh HOSTS MODULE"),
        (["simulate.sh", "two", "experiments.finetune"], "HOSTS is a number of 1 or more, not two"),
        (["simulate.sh", "3", "experiments.finetune"], "8 devices cannot be divided among 3 hosts"),
        (["pod.sh"], "usage: launch/pod.sh"),
        (["gke.sh"], "usage: launch/gke.sh"),
        (["constraints.sh", "3.11"], "launch/constraints.sh takes no arguments"),
        (["environment.sh"], "source launch/environment.sh"),
    ],
)
def test_a_mistake_is_one_line(tree, command, message):
    status, output = run([tree / "launch" / command[0], *command[1:]], tree)
    assert status == 2 and message in output and output.count("\n") == 1


def test_the_choices_of_a_mistake_are_all_experiments(tree):
    _, output = run([tree / "launch" / "worker.sh", "nothing"], tree)
    assert {"finetune", "finetune__no_mask", "findings"} <= set(output.split(": ", 1)[1].replace("\n", "").split(", "))
    assert "__init__" not in output


@pytest.mark.parametrize(
    "version", ["3.2.57(1)-release", "2.05b.0(1)-release", "4.0.44(1)-release", "4.3.48(1)-release"]
)
def test_an_old_bash_is_refused_by_name(tree, version):
    status, output = run(["bash", "-c", f"source launch/shell.sh; require_bash '{version}'; echo went on"], tree)
    assert status == 2 and f"this is bash {version}" in output and "brew install bash" in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("version", ["4.4.20(1)-release", "5.2.37(1)-release", "10.0.0(1)-release"])
def test_a_new_bash_is_accepted(tree, version):
    assert run(["bash", "-c", f"source launch/shell.sh; require_bash '{version}'; echo went on"], tree) == (
        0,
        "went on\n",
    )


@pytest.mark.parametrize("script", NEED_NEW_BASH)
def test_scripts_that_need_a_new_bash_check_before_they_begin(tree, script):
    """bash -c CODE NAME: NAME becomes $0, and the code takes the variable that the check reads for another version."""
    code = f"BASH_VERSION='3.2.57(1)-release'; source launch/{script}"
    status, output = run(["bash", "-c", code, f"launch/{script}", *NEED_NEW_BASH[script]], tree)
    assert status == 2 and f"launch/{script} needs bash 4.4 or newer, this is bash 3.2.57" in output


@pytest.mark.parametrize("name", ["index.npz", "runs/report.html", "OUT/model.safetensors", "photo.png", "clip.mp4"])
def test_git_ignores_what_the_readme_makes(name):
    assert run(["git", "check-ignore", "--no-index", "--quiet", name], ROOT)[0] == 0


@pytest.mark.parametrize(
    "name",
    [
        "experiments/ablations/finetune__mine.py",
        "docs/images/page.png",
        "tests/hf/golden/new/inputs.npz",
        "embed/data/build/new.py",
    ],
)
def test_git_does_not_ignore_what_belongs_to_the_project(name):
    assert run(["git", "check-ignore", "--no-index", "--quiet", name], ROOT)[0] == 1


def flags_without_comment(output: str) -> list[str]:
    """The lines of a module's --help that name a flag and say nothing of it, there or on the next line."""
    lines = [*output.splitlines(), ""]
    flags = [(line, after) for line, after in itertools.pairwise(lines) if line.startswith("  -")]
    return [line for line, after in flags if not re.search(r"\S {2,}\S", line) and not after.startswith(" " * 8)]


def test_help_of_modules_explains_and_does_nothing(tmp_path):
    """Needs neither what the benchmarks compare with (torch, FAISS) nor libtpu. One process forks for every module."""
    modules = [f"benchmarks.{path.stem}" for path in ROOT.glob("benchmarks/*.py")]
    modules += ["launch.compile", "launch.mixture", "launch.table"]
    assert len(modules) > 8
    status, errors = run([sys.executable, "-W", "ignore", "-c", HELP_OF_MODULES, tmp_path, *modules], ROOT)
    assert status == 0 and not errors
    for module in modules:
        status, output = (tmp_path / module).read_text().split("\n", 1)
        assert status == "0", (module, output)
        assert f"python -m {module}" in output and not flags_without_comment(output), output
