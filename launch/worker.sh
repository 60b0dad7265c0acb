#!/usr/bin/env bash
# What every worker of a pod runs: launch/worker.sh NAME [flags]
#   launch/worker.sh finetune --config=configs/v5e_16.py --config.workdir=gs://BUCKET/runs
# Makes .venv and installs what setup.py asks for, where that is not done. Then runs experiments/NAME.py, again for as
# long as it ends with status 75: stopped in a state that the same command goes on from. Five such ends in a row without
# a new checkpoint (TRIES=n for another number), and it gives up. Ends with the experiment's status. SIGTERM is passed
# on; a second one kills. runs/worker/ has the log of all runs and, once the last has ended, its status.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { echo "usage: launch/worker.sh NAME [flags]" >&2; exit 2; }
folder=runs/worker tries=${TRIES:-5} pause=${PAUSE:-10}
mkdir -p "$folder"
exec 9>>"$folder/lock"
flock --wait 3 9 || { echo "another run is in progress here" >&2; exit 1; }
rm -f "$folder/status"
echo $$ >"$folder/pid"
commit=$(cat COMMIT 2>/dev/null || echo unknown)
printf '%s' "$commit" >"$folder/command"
printf ' %q' "$@" >>"$folder/command"
touch "$folder/log"
tail -n "+$(( $(wc -l <"$folder/log") + 1 ))" -f --pid=$$ "$folder/log" 9>&- &  # what kubectl reads
mirror=$!
exec >>"$folder/log" 2>&1

# shellcheck disable=SC2317,SC2329  # a trap's
finish() {
  local status=$?
  echo "$(date +%T) worker ends with status $status"
  echo "$status" >"$folder/status.partial"
  mv "$folder/status.partial" "$folder/status"
  sleep 1  # for the last lines
  kill "$mirror" ${warner:+"$warner"} 2>/dev/null || true
}
trap finish EXIT

child='' stopping='' interrupted='' signal=TERM
# shellcheck disable=SC2317,SC2329
stop() {
  stopping=1 interrupted=1
  [ -z "$child" ] || kill -s "$signal" "$child" 2>/dev/null || true
  signal=KILL
}
trap stop TERM INT

# A spot machine's notice is in its metadata, seconds before the system's own SIGTERM.
notice() {
  local url="http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/preempted"
  while kill -0 $$ 2>/dev/null; do
    if [ "$(curl --silent --max-time 2 --header 'Metadata-Flavor: Google' "$url" 2>/dev/null)" = TRUE ]; then
      echo "$(date +%T) this machine is about to be taken away"
      kill -TERM $$
      return
    fi
    sleep 5
  done
}

# Runs a command so that a signal reaches it at once.
attend() {
  local status
  "$@" &
  child=$!
  [ -z "$stopping" ] || kill "$child" 2>/dev/null || true
  while true; do
    interrupted='' status=0
    wait "$child" || status=$?
    [ -n "$interrupted" ] || return "$status"
  done
}

# Checkpoints that the runs of this log have gone on from, by the line of embed/training/resume.py.
checkpoints() { { grep -o 'resuming .* at step [0-9]*' "$folder/log" || true; } | sort -u | wc -l; }

echo "$(date +%T) worker $(hostname) runs $* at commit $commit"
if [ ! -x .venv/bin/python ] && ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  # The images of v5e, v5p and v6e have Python 3.10.
  attend python3 -m pip install --quiet --user uv
  attend python3 -m uv venv --quiet --seed --python 3.12 .venv
fi
source launch/environment.sh
install "[tpu]" attend
export EMBED_POD=1  # for embed/training/main.py: there are other workers to join
notice 9>&- &
warner=$!
seen=$(checkpoints) vain=0
while [ -z "$stopping" ]; do
  status=0
  attend python -m "experiments.$1" "${@:2}" || status=$?
  if [ "$status" != 75 ] || [ -n "$stopping" ]; then exit "$status"; fi
  found=$(checkpoints)
  if (( found > seen )); then vain=0; else vain=$((vain + 1)); fi
  seen=$found
  (( vain < tries )) || { echo "ended with status 75 $tries times without a new checkpoint: giving up"; exit 75; }
  wait=$((pause << vain))
  echo "$(date +%T) $1 ended with status 75; again in $((wait < 300 ? wait : 300)) s"
  attend sleep "$((wait < 300 ? wait : 300))" || true
done
exit 75
