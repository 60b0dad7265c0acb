"""A small model on records of two tasks (tests/distributed/test_hosts.py), trained by the workers of a pod."""

import logging
import pathlib
import sys

sys.path[:0] = ["tests", "tests/distributed"]

import test_hosts  # noqa: E402

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, force=True)
    given = dict(word.removeprefix("--config.").split("=", 1) for word in sys.argv[1:])
    run = pathlib.Path(given["workdir"]) / "trains"
    test_hosts.main(pathlib.Path(given["data"]), run, test_hosts.MESH, test_hosts.STEPS, 600)
