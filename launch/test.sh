#!/usr/bin/env bash
# Sets up a virtual environment and runs the tests: launch/test.sh [pytest arguments]; -m "" for the slow ones too
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
install "[test]"
exec python -m pytest -n 2 --dist worksteal "$@"
