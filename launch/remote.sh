#!/usr/bin/env bash
# Starts, reports on and stops the one run of a worker; pod.sh calls it over ssh: launch/remote.sh ACTION
#   launch/remote.sh start NAME [flags]   starts worker.sh, unless it runs already, so that it outlives the connection
#   launch/remote.sh state                prints HOST none | running COMMIT NAME [flags] | ended STATUS | lost
#   launch/remote.sh log LINE SECONDS     prints the log from a line on (-20: the last twenty), for so long or to the end
#   launch/remote.sh stop                 sends SIGTERM; a second one kills
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/shell.sh
show_help launch/remote.sh "${@:1:1}"
folder=runs/worker
mkdir -p "$folder"
is_running() { ! flock --shared --nonblock "$folder/lock" true; }

print_state() {
  if [ -e "$folder/status" ]; then
    echo "$(hostname) ended $(cat "$folder/status")"
  elif is_running; then
    echo "$(hostname) running $(cat "$folder/command")"
  elif [ -e "$folder/command" ]; then
    echo "$(hostname) lost"  # the machine went down during the run
  else
    echo "$(hostname) none"
  fi
}

case ${1:-} in
  start)
    if [ -e "$folder/status" ] || ! is_running; then
      before=$(cat "$folder/pid" 2>/dev/null || true)
      setsid launch/worker.sh "${@:2}" </dev/null >/dev/null 2>&1 &
      for (( i = 0; i < 100; i++ )); do
        [ "$(cat "$folder/pid" 2>/dev/null || true)" = "$before" ] || break
        sleep 0.1
      done
    fi
    print_state
    ;;
  state) print_state ;;
  log)
    touch "$folder/log"
    first=$2
    (( first > 0 )) || first=$(( $(wc -l <"$folder/log") + first + 1 ))
    (( first > 0 )) || first=1
    echo "from $first"
    pid=$(cat "$folder/pid" 2>/dev/null || echo 1)
    timeout "$3" tail -n "+$first" -s 0.5 -f --pid="$pid" "$folder/log" | grep --line-buffered -n '' || true
    ;;
  stop)
    if [ ! -e "$folder/status" ] && is_running; then
      pid=$(cat "$folder/pid")
      kill "$pid" 2>/dev/null || kill -KILL -- "-$pid"  # without its worker.sh, kill what it left
    fi
    print_state
    ;;
  *) die "usage: launch/remote.sh start NAME [flags] | state | log LINE SECONDS | stop; --help explains" ;;
esac
