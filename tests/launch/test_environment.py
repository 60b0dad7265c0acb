"""What the two commands install, and what they say where a Python does not fit.

Environments are entered for real; pip's place is taken by a function that writes down what it is asked for. That pip
installs it is shown wherever launch/test.sh is run.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parent.parent.parent
TESTED = sorted((ROOT / "launch" / "constraints").glob("python*.txt"))
HERE = "{}.{}".format(*sys.version_info)


@pytest.fixture
def enter(tmp_path):
    """Sources environment.sh in `folder`, then runs a command: its status and output. VENV is an empty environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)

    def run(command: str = "true", folder: pathlib.Path = ROOT, **environment: str) -> tuple[int, str]:
        names = ("VIRTUAL_ENV", "CONSTRAINTS")
        clean = {name: value for name, value in os.environ.items() if name not in names}
        values = {"VENV": str(tmp_path / "venv"), "PYTHON": sys.executable} | environment
        script = f"set -euo pipefail; source {ROOT}/launch/environment.sh; {command}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=clean | values, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        return done.returncode, done.stdout

    return run


def python(folder: pathlib.Path, version: str) -> str:
    """A Python of this machine that gives itself out as another version."""
    folder.mkdir(parents=True)
    path = folder / "python"
    site = f'import sys; sys.version_info = ({version.replace(".", ", ")}, 0, "final", 0)'
    (folder / "sitecustomize.py").write_text(site)
    path.write_text(f"""#!/bin/sh
[ "$1" != --version ] || {{ echo Python {version}.0; exit; }}
PYTHONPATH={folder} exec {sys.executable} "$@"
""")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def tree(tmp_path) -> pathlib.Path:
    """A copy of what sourcing environment.sh needs, and fast/python, which makes environments without pip."""
    folder = tmp_path / "tree"
    (folder / "launch").mkdir(parents=True)
    for name in ("environment.sh", "shell.sh", "constraints"):
        (folder / "launch" / name).symlink_to(ROOT / "launch" / name)
    (tmp_path / "fast").mkdir()
    path = tmp_path / "fast" / "python"
    path.write_text(f"""#!/bin/sh
[ "$1 $2" != "-m venv" ] || exec {sys.executable} -m venv --without-pip "$3"
exec {sys.executable} "$@"
""")
    path.chmod(0o755)
    return folder


def source(shell: str, tree: pathlib.Path, before: str, after: str, **environment: str) -> tuple[int, str]:
    """Sources environment.sh in tree/../caller, where nothing is, as a user does between two commands."""
    caller = tree.parent / "caller"
    caller.mkdir(exist_ok=True)
    names = ("VIRTUAL_ENV", "CONSTRAINTS", "VENV", "PYTHON")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    script = f"{before}\n. {tree}/launch/environment.sh\n{after}"
    done = subprocess.run(
        [shell, "-c", script], cwd=caller, text=True, env=clean | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert not list(caller.iterdir())
    return done.returncode, done.stdout


def floors() -> list[Requirement]:
    """What setup.py asks for, extras included."""
    words = re.findall(r'"([A-Za-z][\w.-]*(?:\[\w+\])?(?:[>=]=[\w.]+)?)"', (ROOT / "setup.py").read_text())
    return [requirement for requirement in map(Requirement, words) if requirement.specifier]


@pytest.mark.parametrize("path", TESTED, ids=lambda path: path.stem)
def test_tested_versions_are_in_the_ranges_of_setup(path):
    """Raising a floor calls for launch/constraints.sh."""
    lines = map(Requirement, (line for line in path.read_text().splitlines() if not line.startswith("#")))
    python = {"python_full_version": f"{path.stem.removeprefix('python')}.9", "sys_platform": "linux"}
    pins = {pin.name.lower(): pin.specifier for pin in lines if pin.marker is None or pin.marker.evaluate(python)}
    assert len(floors()) > 40
    for requirement in floors():
        (pin,) = pins[requirement.name.lower().replace("_", "-")]
        assert pin.operator == "==" and requirement.specifier.contains(pin.version), requirement


def test_tested_versions_name_no_machine():
    assert [path.stem for path in TESTED] == ["python3.11", "python3.12", "python3.13"]
    for path in TESTED:
        for line in path.read_text().splitlines():
            assert re.match(r"#|[\w.-]+==[\w.]+( ; .*)?$", line), line  # no folder, no +cpu, no address


def test_a_python_that_is_too_old_is_named(enter, tmp_path):
    status, said = enter(PYTHON=python(tmp_path / "old", "3.10"), VENV=str(tmp_path / "none"))
    assert status == 1 and said == "Python 3.10.0 is too old: embed needs 3.11 or newer; set PYTHON to one\n"
    assert not (tmp_path / "none").exists()


def test_no_python_is_said(enter):
    status, said = enter(PYTHON="python3.0")
    assert status == 1 and said.startswith("no python3.0 here") and said.count("\n") == 1


def test_sourced_elsewhere_it_makes_the_environment_in_its_own_folder(tree):
    status, said = source("bash", tree, ":", 'echo "$VIRTUAL_ENV"; pwd', PYTHON=str(tree.parent / "fast" / "python"))
    assert status == 0 and said == f"{tree}/.venv\n{tree.parent}/caller\n"
    assert source("bash", tree, ":", 'echo "$VIRTUAL_ENV"') == (0, f"{tree}/.venv\n")  # it is there, without PYTHON


@pytest.mark.parametrize("relative", [True, False])
def test_venv_names_another_folder(tree, tmp_path, relative):
    folder = tree / "other" if relative else tmp_path / "absolute"
    values = {"VENV": "other" if relative else str(folder), "PYTHON": str(tmp_path / "fast" / "python")}
    assert source("bash", tree, ":", 'echo "$VIRTUAL_ENV"', **values) == (0, f"{folder}\n")


def test_a_sourcing_that_fails_leaves_the_shell_open_and_its_options_alone(tree):
    status, said = source("bash", tree, "options=$-", '[ "$options" = "$-" ] && echo open', PYTHON="python3.0")
    assert status == 0 and said.splitlines()[1:] == ["open"] and said.startswith("no python3.0 here")
    status, said = source("bash", tree, ":", "echo status $?", PYTHON=python(tree.parent / "old", "3.10"))
    assert status == 0 and said.splitlines()[1:] == ["status 1"] and not (tree / ".venv").exists()


def test_a_sourcing_that_succeeds_leaves_the_options_and_commands_of_the_shell_alone(tree):
    after = '[ "$options" = "$-" ] && type -t install'
    status, said = source("bash", tree, "options=$-", after, PYTHON=str(tree.parent / "fast" / "python"))
    assert (status, said) == (0, "file\n")  # the program of coreutils


@pytest.mark.parametrize("shell", ["dash", "ksh", "zsh"])
def test_other_shells_are_refused_by_name_and_stay_open(tree, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    status, said = source(shell, tree, ":", "echo status $?")
    assert status == 0 and said.splitlines()[1:] == ["status 1"]
    assert "needs bash" in said.splitlines()[0] and "source .venv/bin/activate" in said.splitlines()[0]


def test_a_python_that_was_not_tested_takes_the_newest_of_everything(enter, tmp_path):
    python(tmp_path / "new" / "bin", "3.99")
    (tmp_path / "new" / "bin" / "activate").touch()
    status, said = enter('echo "of $embed_constraints"', PYTHON="", VENV=str(tmp_path / "new"))
    assert status == 0, said
    assert said == "Python 3.99 was not tested: installing the newest version of everything\nof /dev/null\n"


def test_an_environment_of_another_python_is_refused_and_kept(enter, tmp_path):
    status, said = enter(PYTHON=python(tmp_path / "other", "3.99"))
    assert status == 1 and said.count("\n") == 1
    assert f"{tmp_path}/venv has Python {HERE}" in said and "3.99" in said and "remove" in said
    assert enter("python --version", PYTHON="") == (0, f"Python {sys.version.split()[0]}\n")  # whatever python3 is


def test_what_is_installed_is_not_installed_again(enter, tmp_path):
    pip = f'pip() {{ echo "$*" >>{tmp_path}/calls; }}; '
    for _ in range(2):
        status, said = enter(pip + 'install_embed "[test]"; install_embed ""')
        assert status == 0 and not said
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == [f"{ROOT}[test]", str(ROOT)]
    assert all(f"--constraint {ROOT}/launch/constraints/python{HERE}.txt" in call for call in calls)
    enter(pip + 'install_embed "[test]"', CONSTRAINTS="/dev/null")  # other versions
    assert "--constraint /dev/null" in (tmp_path / "calls").read_text().splitlines()[2]


def test_an_installation_that_fails_is_tried_again(enter, tmp_path):
    for _ in range(2):
        assert enter('pip() { return 3; }; install_embed "[test]"; echo never')[0] == 3
    assert not list((tmp_path / "venv").glob("installed*"))
