#!/usr/bin/env bash
# Sets up a virtual environment and runs the whole recipe on this machine: launch/quickstart.sh [--config.name=value ...]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
install ""
exec python -m experiments.recipe --config=configs/cpu.py "$@"
