"""Counts to --config.steps in a file of the workdir: what a launch sees of an experiment, without its weight.

The first worker saves every --config.save steps, and at SIGTERM, which ends it with status 75. After --config.at steps
of one process, the worker --config.worker (or all) ends with --config.status, unless all is done. The last step waits
for the file --config.until.
"""

import os
import pathlib
import signal
import sys
import time

given = dict(word.removeprefix("--config.").split("=", 1) for word in sys.argv[1:])
path = pathlib.Path(given["workdir"]) / "counter"
steps, save = int(given["steps"]), int(given.get("save", 1))
me = os.environ.get("JAX_PROCESS_ID", "0")
at = int(given.get("at", -1)) if given.get("worker", me) == me else -1
stopped = False


def stop(*_):
    global stopped
    stopped = True


if given.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, stop)


def write(step: int) -> None:
    if me == "0":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".partial").write_text(str(step))
        path.with_suffix(".partial").replace(path)


start = int(path.read_text()) if path.exists() else 0
if start:
    print(f"resuming {path} at step {start}", flush=True)
for step in range(start, steps):
    if step - start == at:
        sys.exit(int(given["status"]))
    while step + 1 == steps and "until" in given and not os.path.exists(given["until"]) and not stopped:
        time.sleep(0.02)
    time.sleep(float(given.get("seconds", 0.05)))
    print(f"step {step + 1}/{steps}", flush=True)
    if (step + 1) % save == 0 or step + 1 == steps or stopped:
        write(step + 1)
    if stopped:
        print("stopped", flush=True)
        sys.exit(75)
