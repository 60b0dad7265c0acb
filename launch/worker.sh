#!/usr/bin/env bash
# Installs and runs an experiment on one worker of a pod: launch/worker.sh NAME [flags]
#   launch/worker.sh finetune --config=configs/tpu_v5e_16.py --config.workdir=gs://BUCKET/runs
# pod.sh and gke.sh start it on every worker. It makes .venv, installs what setup.py asks for, and runs the experiment,
# again for as long as it ends with status 75: stopped in a state that the same command resumes. It gives up after TRIES
# such ends in a row without a new checkpoint. The exit status is the experiment's. SIGTERM is passed on; a second one
# kills. runs/worker/ holds the log of all runs and, once the last has ended, its status.
# From the environment:
#   TRIES  5 by default
#   PAUSE  seconds before the first restart; they double with every try without a new checkpoint; 10 by default
#   PYTHON, VENV, CONSTRAINTS  see launch/environment.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/shell.sh
show_help launch/worker.sh "$@"
[ $# -ge 1 ] || die "usage: launch/worker.sh NAME [flags]; --help explains"
module=$(find_experiment "$1")
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
  kill "$mirror" ${watcher:+"$watcher"} 2>/dev/null || true
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

# A spot machine's metadata announces a preemption seconds before the system's own SIGTERM.
watch_preemption() {
  local url="http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/preempted"
  while kill -0 $$ 2>/dev/null; do
    if [ "$(curl --silent --max-time 2 --header 'Metadata-Flavor: Google' "$url" 2>/dev/null)" = TRUE ]; then
      echo "$(date +%T) this machine is about to be preempted"
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

# Counts the checkpoints that the runs in this log resumed from, by the line of embed/training/resume.py.
count_checkpoints() { { grep -o 'resuming .* at step [0-9]*' "$folder/log" || true; } | sort -u | wc -l; }

echo "$(date +%T) worker $(hostname) runs $* at commit $commit"
if [ ! -x .venv/bin/python ] && ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  # The images of v5e, v5p and v6e have Python 3.10.
  attend python3 -m pip install --quiet --user uv
  attend python3 -m uv venv --quiet --seed --python 3.12 .venv
fi
source launch/environment.sh
install_embed "[tpu]" attend
export EMBED_POD=1  # tells embed/training/main.py that there are other workers to join
watch_preemption 9>&- &
watcher=$!
checkpoints=$(count_checkpoints) fruitless=0
while [ -z "$stopping" ]; do
  status=0
  attend python -m "$module" "${@:2}" || status=$?
  if [ "$status" != 75 ] || [ -n "$stopping" ]; then exit "$status"; fi
  before=$checkpoints
  checkpoints=$(count_checkpoints)
  if (( checkpoints > before )); then fruitless=0; else fruitless=$((fruitless + 1)); fi
  (( fruitless < tries )) || { echo "ended with status 75 $tries times without a new checkpoint: giving up"; exit 75; }
  seconds=$((pause << fruitless))
  (( seconds < 300 )) || seconds=300
  echo "$(date +%T) $1 ended with status 75; again in $seconds s"
  attend sleep "$seconds" || true
done
exit 75
