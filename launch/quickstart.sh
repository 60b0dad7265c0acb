#!/usr/bin/env bash
# Runs the whole recipe on this machine, in a virtual environment that it makes: launch/quickstart.sh [flags]
# It builds the toy corpora, trains the three stages (pre-fine-tuning, fine-tuning, model soup), evaluates them, and
# writes a table and runs/report.html. The same command continues a run that was stopped.
#   --config.NAME=VALUE  a field of configs/cpu.py, such as --config.workdir=FOLDER
#   --config.pairs=FOLDER  also trains and evaluates on your own datasets
# From the environment:
#   PYTHON, VENV, CONSTRAINTS  see launch/environment.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/shell.sh
show_help launch/quickstart.sh "$@"
source launch/environment.sh
install_embed ""
exec python -m experiments.recipe --config=configs/cpu.py "$@"
