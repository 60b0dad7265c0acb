#!/usr/bin/env bash
# Writes launch/constraints/: for each Python, the newest release of everything that setup.py asks for, extras included.
# Then run the tests: they say whether the set works (launch/test.sh with each Python, .ci/run).
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3}" -m venv "$tools"
"$tools/bin/pip" install --quiet uv
cd launch/constraints
for version in 3.11 3.12 3.13; do
  # Not in setup.py: the torch that the tests of [hf] were written with, and what its processors of images need.
  printf '%s\n' torch==2.13.0 torchvision \
    | "$tools/bin/uv" pip compile --quiet --universal --python-version "$version" --all-extras --upgrade \
      --no-annotate --custom-compile-command launch/constraints.sh --output-file "python$version.txt" ../../setup.py -
done
