#!/usr/bin/env bash
# Runs the tests in a virtual environment that it makes: launch/test.sh [pytest arguments]
#   launch/test.sh                 the default tests
#   launch/test.sh -m ""           also the slow ones, which take minutes each
#   launch/test.sh tests/losses    one folder or file; -k NAME picks tests by name
# From the environment:
#   PYTHON, VENV, CONSTRAINTS  see launch/environment.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/shell.sh
show_help launch/test.sh "$@"
source launch/environment.sh
install_embed "[test]"
exec python -m pytest -n 2 --dist worksteal "$@"
