#!/usr/bin/env bash
# Runs a module as the hosts of a pod would, in as many processes on this machine: launch/simulate.sh HOSTS MODULE [flags]
#   launch/simulate.sh 2 experiments.finetune --config.steps=4
# Eight CPU devices are divided among them (DEVICES=n for another number). Ends when all have; one that fails ends the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { echo "usage: launch/simulate.sh HOSTS MODULE [flags]" >&2; exit 2; }
hosts=$1 module=$2 devices=${DEVICES:-8}
shift 2
(( devices % hosts == 0 )) || { echo "$devices devices cannot be divided among $hosts hosts" >&2; exit 2; }
[ -n "${VIRTUAL_ENV:-}" ] || source launch/environment.sh
port=$(python -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$hosts JAX_NUM_CPU_DEVICES=$((devices / hosts))
export JAX_PLATFORMS=cpu
# XLA's default order of collectives is another on every device where a program is read from the cache of compiled ones,
# and the devices wait for each other for ever (jax 0.10 to 0.12, tests/conftest.py).
export XLA_FLAGS="${XLA_FLAGS:-} --xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
processes=()
end() {  # those that are left: asked first, since they may have to finish writing; stopped or waiting ones do not hear it
  kill "${processes[@]}" 2>/dev/null || return 0
  for (( tenth = 0; tenth < 50; tenth++ )); do
    kill -0 "${processes[@]}" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "${processes[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
}
trap end EXIT
for (( host = 0; host < hosts; host++ )); do
  JAX_PROCESS_ID=$host python -m "$module" "$@" > >(sed -u "s/^/[$host] /") 2>&1 &
  processes+=($!)
done
for (( host = 0; host < hosts; host++ )); do
  status=0
  wait -n || status=$?
  (( status == 0 )) || exit "$status"
done
