#!/usr/bin/env bash
# Runs a module as the hosts of a pod would, one process per host on this machine: launch/simulate.sh HOSTS MODULE [flags]
#   launch/simulate.sh 2 experiments.finetune --config.steps=4
# Ends when all processes have ended; when one fails, it ends the others and returns that one's status.
# From the environment:
#   DEVICES  CPU devices, divided equally among the hosts; 8 by default
#   PYTHON, VENV, CONSTRAINTS  see launch/environment.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/shell.sh
show_help launch/simulate.sh "$@"
require_bash
[ $# -ge 2 ] || die "usage: launch/simulate.sh HOSTS MODULE [flags]; --help explains"
hosts=$1 module=$2 devices=${DEVICES:-8}
shift 2
[[ $hosts =~ ^[1-9][0-9]*$ ]] || die "HOSTS is a number of 1 or more, not $hosts"
[[ $devices =~ ^[1-9][0-9]*$ ]] || die "DEVICES is a number of 1 or more, not $devices"
(( devices % hosts == 0 )) || die "$devices devices cannot be divided among $hosts hosts"
[ -n "${VIRTUAL_ENV:-}" ] || source launch/environment.sh
port=$(python -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$hosts JAX_NUM_CPU_DEVICES=$((devices / hosts))
export JAX_PLATFORMS=cpu
# By XLA's default, a program read from the compilation cache orders its collectives differently on every device, and the
# devices wait for each other forever (jax 0.10 to 0.12, tests/conftest.py).
export XLA_FLAGS="${XLA_FLAGS:-} --xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
processes=()

# Ends the processes that remain. SIGTERM first: they may be writing. A stopped or hanging one ignores it.
end_processes() {
  kill "${processes[@]}" 2>/dev/null || return 0
  for (( tenth = 0; tenth < 50; tenth++ )); do
    kill -0 "${processes[@]}" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "${processes[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
}
trap end_processes EXIT

for (( host = 0; host < hosts; host++ )); do
  JAX_PROCESS_ID=$host python -m "$module" "$@" > >(sed -u "s/^/[$host] /") 2>&1 &
  processes+=($!)
done
for (( host = 0; host < hosts; host++ )); do
  status=0
  wait -n || status=$?
  (( status == 0 )) || exit "$status"
done
