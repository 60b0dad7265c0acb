"""A process that hangs ends with status 75 and names the activity; untimed activities may take any time."""

import pathlib
import subprocess
import sys
import textwrap

import pytest

from embed.distributed.preemption import RESTART_STATUS

ROOT = pathlib.Path(__file__).parents[2]


def run(body: str) -> subprocess.CompletedProcess:
    """A process that does `body` under a watchdog of half a second."""
    head = "import time, jax\nfrom embed.distributed.watchdog import watchdog\nwith watchdog(0.5) as heartbeat:\n"
    program = head + textwrap.indent(textwrap.dedent(body), "    ")
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_what_stands_still_ends_and_says_where():
    done = run("""
        def waiting_for_another_host(): time.sleep(60)
        heartbeat("step 6")
        heartbeat("step 7")
        waiting_for_another_host()
    """)
    assert done.returncode == RESTART_STATUS == 75
    assert "step 7: no progress for 0.5 s" in done.stderr and "continues from the last checkpoint" in done.stderr
    assert "in waiting_for_another_host" in done.stderr and "step 6" not in done.stderr


@pytest.mark.parametrize(
    "body",
    [
        'for step in range(4): heartbeat(f"step {step}"); time.sleep(0.3)',
        'time.sleep(1); heartbeat("step 0", is_timed=False); time.sleep(1)',
        'heartbeat("step 0"); heartbeat("step 1", is_timed=False); time.sleep(1)',
    ],
)
def test_what_goes_on_or_is_not_timed_does_not_end(body):
    done = run(body + "\nprint('went on')")
    assert done.returncode == 0 and done.stdout == "went on\n" and not done.stderr


def test_an_error_is_an_error_and_afterwards_nobody_watches():
    done = run("""
        heartbeat("step 0")
        raise ValueError("a fault of its own")
    """)
    assert done.returncode == 1 and "ValueError: a fault of its own" in done.stderr
    alone = run("""
        heartbeat("step 0")
        raise jax.errors.JaxRuntimeError("a device of one host")
    """)
    assert alone.returncode == 1 and "JaxRuntimeError: a device of one host" in alone.stderr
    after = 'with watchdog(0.2) as heartbeat: heartbeat("step 0")\ntime.sleep(0.6)\n'
    program = f"import time\nfrom embed.distributed.watchdog import watchdog\n{after}"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 0
