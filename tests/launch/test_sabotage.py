"""A machine without git, and a PyAV that does not take what it is given, from under the suite.

Some tests run again in a process of their own. Without git nothing changes but the version of the code, which is
unknown. With a PyAV that raises TypeError no test of it may pass, those of broken files least of all: a library that
has changed is no broken file.
"""

import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as xml

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
CHANGED = """
import av

whole = av.open


def open(file, mode=None, *args, **kwargs):
    if mode == "w":  # tests make their files
        return whole(file, mode, *args, **kwargs)
    raise TypeError("open() got an unexpected keyword argument")


av.open = open
"""


def run(folder: pathlib.Path, *words: str, **environment: str) -> list[xml.Element]:
    """The cases of a pytest run."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *words]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    cases = list(xml.parse(report).iter("testcase"))
    assert cases and (done.returncode != 0) == any(case.find("failure") is not None for case in cases), done.stdout
    return cases


@pytest.fixture
def without_git(tmp_path) -> str:
    """A PATH of all programs but git."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in map(pathlib.Path, os.environ["PATH"].split(os.pathsep)):
        for program in place.iterdir() if place.is_dir() else ():
            if program.name != "git" and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


@pytest.mark.slow
def test_without_git_the_code_is_of_an_unknown_version(without_git, tmp_path):
    program = "from embed.training.metadata import code_version; print(code_version())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": without_git}, capture_output=True, text=True)
    assert done.stdout == "unknown\n", done.stderr
    cases = run(tmp_path, "tests/training/test_soup.py", PATH=without_git)
    assert not [case.get("name") for case in cases if len(case)]


def test_a_changed_library_is_no_broken_file(tmp_path):
    (tmp_path / "changed_av.py").write_text(CHANGED)
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    chosen = ("tests/data/media/test_media.py", "-k", "(test_a_video or broken_video) and not looked_at")
    cases = run(tmp_path, "-p", "changed_av", *chosen, PYTHONPATH=path)
    ends = {case.get("name"): [end.get("message", "") for end in case.iter("failure")] for case in cases}
    assert len(ends) > 5 and all(end and end[0].startswith("TypeError: open()") for end in ends.values()), ends
