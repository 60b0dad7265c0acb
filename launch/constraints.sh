#!/usr/bin/env bash
# Writes launch/constraints/: launch/constraints.sh
# For each supported Python, a file with the newest release of everything that setup.py asks for, extras included. Run
# the tests afterwards (.ci/run, or launch/test.sh with each Python): they tell whether the set works.
# From the environment:
#   PYTHON  the Python that runs uv, which resolves the versions; python3 by default
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/shell.sh
show_help launch/constraints.sh "$@"
[ $# = 0 ] || die "launch/constraints.sh takes no arguments; --help explains"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3}" -m venv "$tools"
"$tools/bin/pip" install --quiet uv
cd launch/constraints
for version in 3.11 3.12 3.13; do
  # Not in setup.py: the torch that the tests of [hf] were written with, and what its image processors need.
  printf '%s\n' torch==2.13.0 torchvision \
    | "$tools/bin/uv" pip compile --quiet --universal --python-version "$version" --all-extras --upgrade \
      --no-annotate --custom-compile-command launch/constraints.sh --output-file "python$version.txt" ../../setup.py -
done
