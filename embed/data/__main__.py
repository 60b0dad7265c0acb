"""`python -m embed.data build SPEC OUT`: any source to a dataset to train on, with a manifest of what became of it."""

import argparse
import logging
import os
import pathlib
import sys
from collections.abc import Sequence

from embed.data.build.build import Options, build
from embed.distributed.storage import one_line


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embed.data", description="Datasets to train and evaluate on.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="check, deduplicate and shard a source")
    make.add_argument("spec", type=pathlib.Path, help="a folder of pairs, of a benchmark or of BEIR, or a Python file")
    make.add_argument("out", type=pathlib.Path, help="the folder that is made")
    make.add_argument("--near", type=share, help="leave out what is alike by this share, 0.5 to 1; 0.9 is cautious")
    make.add_argument("--against", type=pathlib.Path, nargs="+", default=[], metavar="SPEC", help="to evaluate on")
    make.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that read (one a core)")
    return parser.parse_args(argv)


def share(word: str) -> float:
    """A number from 0.5 to 1: below, the bands of `duplicates` miss too many. Raises ValueError."""
    if not 0.5 <= (value := float(word)) <= 1:
        raise ValueError
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status, 2 after an error of one line."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if args.workers < 1:
            raise ValueError(f"--workers {args.workers}: at least 1")
        about = build(args.spec, args.out, Options(args.near, tuple(args.against)), args.workers)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    for name, split in about["splits"].items():
        less = {why: n for why, n in split.items() if isinstance(n, int) and n and why not in ("read", "records")}
        less |= {"quarantined": n} if (n := sum(split["quarantined"].values())) else {}
        said = "".join(f", {n:,} {why}" for why, n in less.items())
        print(f"{name}: {split['records']:,} of {split['read']:,} records in {len(split['shards'])} shards{said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
