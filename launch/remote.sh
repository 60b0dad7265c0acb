#!/usr/bin/env bash
# What pod.sh asks of a worker over ssh, of the one run that it can have.
#   launch/remote.sh start NAME [flags]   starts worker.sh, unless it runs, so that it outlives the connection
#   launch/remote.sh state                one line: HOST none | running COMMIT NAME [flags] | ended STATUS | lost
#   launch/remote.sh log LINE SECONDS     the log from a line on (-20: the last twenty), for so long or to the run's end
#   launch/remote.sh stop                 SIGTERM; a second one kills
set -euo pipefail
cd "$(dirname "$0")/.."
folder=runs/worker
mkdir -p "$folder"
running() { ! flock --shared --nonblock "$folder/lock" true; }

state() {
  if [ -e "$folder/status" ]; then
    echo "$(hostname) ended $(cat "$folder/status")"
  elif running; then
    echo "$(hostname) running $(cat "$folder/command")"
  elif [ -e "$folder/command" ]; then
    echo "$(hostname) lost"  # the machine went down under it
  else
    echo "$(hostname) none"
  fi
}

case $1 in
  start)
    if [ -e "$folder/status" ] || ! running; then
      before=$(cat "$folder/pid" 2>/dev/null || true)
      setsid launch/worker.sh "${@:2}" </dev/null >/dev/null 2>&1 &
      for (( i = 0; i < 100; i++ )); do
        [ "$(cat "$folder/pid" 2>/dev/null || true)" = "$before" ] || break
        sleep 0.1
      done
    fi
    state
    ;;
  state) state ;;
  log)
    touch "$folder/log"
    from=$2
    (( from > 0 )) || from=$(( $(wc -l <"$folder/log") + from + 1 ))
    (( from > 0 )) || from=1
    echo "from $from"
    pid=$(cat "$folder/pid" 2>/dev/null || echo 1)
    timeout "$3" tail -n "+$from" -s 0.5 -f --pid="$pid" "$folder/log" | grep --line-buffered -n '' || true
    ;;
  stop)
    if [ ! -e "$folder/status" ] && running; then
      pid=$(cat "$folder/pid")
      kill "$pid" 2>/dev/null || kill -KILL -- "-$pid"  # its worker.sh is gone: what is left of it
    fi
    state
    ;;
esac
