"""A folder has one writer: a second process is refused, and the lock of a killed process is free."""

import os
import signal
import subprocess
import sys

import pytest

from embed.distributed.lock import lock_folder
from embed.distributed.storage import StorageError

HOLD = """
import pathlib, sys
from embed.distributed.lock import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
FORK = """
import os, pathlib, signal, sys
from embed.distributed.lock import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
    child = os.fork()
    if not child:
        os.close(1)
        os.close(2)
        signal.pause()
print(child)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path / "run [1]"`, and the folder."""
    folder = tmp_path / "run [1]"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process, folder
        process.kill()


def test_a_second_process_is_refused_by_one_line_that_names_the_first(holder):
    process, folder = holder
    with pytest.raises(StorageError) as refused, lock_folder(folder):
        pass
    message = str(refused.value)
    assert str(folder) in message and f"process {process.pid} on" in message and "\n" not in message


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_lock_ends_with_its_process(holder, ending):
    process, folder = holder
    process.send_signal(ending)
    process.wait()
    with lock_folder(folder), pytest.raises(ZeroDivisionError), lock_folder(folder.parent / "other"):
        raise ZeroDivisionError


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path)]
    child = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    with lock_folder(tmp_path):
        os.kill(child, signal.SIGKILL)  # it lived until now, with the file open
