#!/usr/bin/env bash
# Runs an experiment on a Cloud TPU slice, which it requests first if needed: launch/pod.sh [--dry-run] NAME [flags]
#   TPU=v5litepod-16 ZONE=us-west4-a launch/pod.sh scale --config=configs/tpu_v5e_16.py \
#     --config.workdir=gs://BUCKET/runs --config.data=gs://BUCKET/data
#   launch/pod.sh status           prints the state of the slice and of its workers
#   launch/pod.sh stop             stops the run, which saves a checkpoint; a second one kills it
#   launch/pod.sh delete           gives the slice back: until then it costs money, idle or not
#   launch/pod.sh --dry-run NAME   prints the commands for a slice that does not exist yet, and runs none of them
# NAME is a file in experiments/, experiments/ablations/ or experiments/studies/; flags are the experiment's.
# From the environment:
#   TPU      the accelerator type; v5litepod-16 and v6e-256 count chips, v5p-128 counts TensorCores, two per chip
#   ZONE     the zone, such as us-west4-a
#   PROJECT  the project; gcloud's own by default
#   SPOT     1 for a spot slice: cheaper, and preempted at any time; on demand by default
#   POD      the slice's name; embed by default
#   POLL     seconds between polls; 30 by default
# The run is on the workers and does not need this script: Ctrl-C or a lost connection only ends the following of its log.
# The same command follows it again, or restarts it after it has ended. A preempted slice is requested again, and the run
# continues from its last checkpoint. The exit status is the run's; the slice stays.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/shell.sh
show_help launch/pod.sh "$@"
require_bash
source launch/common.sh
pod=${POD:-embed} poll=${POLL:-30} next_line=1 workers=0 request='' node=''
parse_arguments "launch/pod.sh [--dry-run] NAME [flags] | status | stop | delete" "$@"

tpus() { run gcloud compute tpus "$@" "${location[@]}"; }

# on N COMMAND: runs a command on worker N, or on all. What gcloud writes to stderr is shown when it fails.
on() {
  local status=0
  tpus tpu-vm ssh "$pod" --worker="$1" --command="$2" --ssh-flag="-o ServerAliveInterval=15" --quiet \
    2>"$scratch/stderr" || status=$?
  (( status == 0 )) || cat "$scratch/stderr" >&2
  return "$status"
}

# Sets request and node to the states of the queued resource and of its node, or to none.
get_states() {
  local rows
  rows=$(tpus queued-resources list --format="value(name.basename(),state.state)") || return
  request=$(awk -v name="$pod" '$1 == name { print $2 }' <<<"$rows")
  rows=$(tpus tpu-vm list --format="value(name.basename(),state)") || return
  node=$(awk -v name="$pod" '$1 == name { print $2 }' <<<"$rows")
  request=${request:-none} node=${node:-none}
}

create_slice() {
  local image
  case $TPU in
    v5litepod-*) image=v2-alpha-tpuv5-lite ;;
    v5p-*) image=v2-alpha-tpuv5 ;;
    v6e-*) image=v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) image=tpu-ubuntu2204-base ;;
    *) die "TPU=$TPU is none of v5litepod-CHIPS, v5p-CORES, v6e-CHIPS: gcloud compute tpus accelerator-types list" ;;
  esac
  tpus queued-resources create "$pod" --node-id="$pod" --accelerator-type="$TPU" --runtime-version="$image" \
    ${SPOT:+--spot} --quiet
}

delete_slice() { tpus queued-resources delete "$pod" --force --quiet; }

# Sets workers to their number.
count_workers() {
  local row type
  row=$(tpus tpu-vm describe "$pod" --format="value(acceleratorType,networkEndpoints.len())") || return
  read -r type workers <<<"$row"
  [ -n "$dry" ] || [ "$type" = "$TPU" ] \
    || die "$pod is a $type, not a $TPU: launch/pod.sh delete, or name another slice with POD"
}

# Returns when the slice is ready: requests it, waits for it and, after a preemption, requests it again.
was_ready='' requested='' exists=''
ensure_slice() {
  local last=''
  while true; do
    if ! get_states; then
      log "no answer about $pod; trying again in $poll s"
    else
      [ "$request $node" = "$last" ] || [ "$last$request $node" = "ACTIVE READY" ] \
        || log "$pod: request $request, node $node"
      last="$request $node"
      case $request-$node in
        ACTIVE-READY)
          exists=1
          if (( workers > 0 )) || count_workers; then was_ready=1; return; fi
          ;;
        none-*)
          [ -z "$exists" ] || die "$pod was deleted; the same command requests it again and resumes from a checkpoint"
          if create_slice; then
            requested=1 exists=1 next_line=1 workers=0
          elif [ -z "$was_ready" ]; then
            die "$pod cannot be requested, see above"
          fi
          ;;
        FAILED-*)
          if [ -n "$requested" ] && [ -z "$was_ready" ]; then
            tpus queued-resources describe "$pod"
            die "the request for $pod failed, see above"
          fi
          if delete_slice; then exists=''; fi
          ;;
        SUSPENDED-* | ACTIVE-PREEMPTED | ACTIVE-TERMINATED) if delete_slice; then exists=''; fi ;;
        *) exists=1 ;;
      esac
    fi
    sleep "$poll"
  done
}

# Copies the commit into the folder embed of every worker; .venv and runs stay.
ship() {
  local unpack
  pack || return
  tpus tpu-vm scp "$scratch/embed.tar.gz" "$pod:embed-$commit.tar.gz" --worker=all --quiet || return
  unpack="mkdir -p embed && cd embed && if [ \"\$(cat COMMIT 2>/dev/null)\" != $commit ]; then rm -f COMMIT &&"
  unpack+=" find . -mindepth 1 -maxdepth 1 ! -name .venv ! -name runs -exec rm -rf {} + &&"
  unpack+=" tar -xzf ../embed-$commit.tar.gz; fi"
  on all "$unpack"
}

# Sets next_line past what worker 0 logged in earlier runs.
skip_old_log() {
  next_line=$(on 0 "cat embed/runs/worker/log 2>/dev/null | wc -l" | awk 'END { print $1 + 1 }')
}

start_workers() { on all "embed/launch/remote.sh start $command"; }

# Prints one line per worker.
get_worker_states() {
  on all "if [ -x embed/launch/remote.sh ]; then embed/launch/remote.sh state; else echo \$(hostname) none; fi"
}

# Prints worker 0's new log lines for one poll. Lines are numbered, because gcloud sends a command again when a
# connection breaks.
follow_log() {
  local line first=1 number
  while IFS= read -r line; do
    case $line in
      "from "*) first=${line#from } ;;
      *)
        number=$((first - 1 + ${line%%:*}))
        if (( number >= next_line )); then
          printf '%s\n' "${line#*:}"
          next_line=$((number + 1))
        fi
        ;;
    esac
  done < <(on 0 "embed/launch/remote.sh log $next_line $poll")
}

# Ensures the slice, ships, starts and follows until every worker has ended; sets status.
run_to_end() {
  local states running ended started='' stopped=''
  while true; do
    ensure_slice
    if ! states=$(get_worker_states) \
      || (( $(grep -cE ' (none|lost|running .*|ended [0-9]+)$' <<<"$states") < workers )); then
      log "not all of the $workers workers of $pod answer"
      sleep "$poll"
      continue
    fi
    running=$(sed -n 's/^[^ ]* running //p' <<<"$states")
    ended=$(sed -n 's/^[^ ]* ended //p' <<<"$states")
    if grep -qvxF "$commit $command" <<<"${running:-$commit $command}"; then
      die "$pod runs something else; launch/pod.sh stop ends it, POD=NAME is another slice:" "$running"
    fi
    if [ -z "$started" ] && [ -n "$running" ]; then
      log "$action is running on $pod: following it"
      next_line=-20
    fi
    if grep -qE ' (none|lost)$' <<<"$states" || [ -z "$started$running" ]; then
      log "starting $action on the $workers workers of $pod, at commit $commit"
      [ -n "$started" ] || skip_old_log || continue
      if ship && start_workers >"$scratch/started"; then started=1; else sleep "$poll"; fi
      continue
    fi
    started=1
    follow_log
    if [ -z "$running" ]; then
      status=$(grep -vx -m1 -e 0 -e 75 <<<"$ended" || sort -n <<<"$ended" | tail -n 1)
      return
    fi
    if [ -z "$stopped" ] && grep -qvx -e 0 -e 75 <<<"${ended:-0}"; then
      log "a worker failed: stopping the others"
      on all "embed/launch/remote.sh stop" >"$scratch/stopped"
      stopped=1
    fi
  done
}

case $action in
  status)
    get_states
    log "$pod: request $request, node $node"
    if [ -n "$dry" ] || [ "$node" = READY ]; then get_worker_states; fi
    exit
    ;;
  stop)
    on all "embed/launch/remote.sh stop"
    [ -z "$dry" ] || exit 0
    while get_worker_states >"$scratch/states" && grep ' running ' "$scratch/states"; do sleep "$poll"; done
    log "stopped; the slice stays: launch/pod.sh delete gives it back"
    exit
    ;;
  delete)
    delete_slice
    exit
    ;;
esac

check_launch
command=$(quote "$action" "${flags[@]}")
if [ -n "$dry" ]; then
  get_states; create_slice; get_states; count_workers; get_worker_states; skip_old_log; ship; start_workers; follow_log
  exit
fi
trap 'echo; log "no longer following: the run on $pod continues. The same command follows it; launch/pod.sh stop \
ends the run, launch/pod.sh delete gives the slice back"; exit 130' INT
get_states
run_to_end
log "$action ended with status $status; $pod still costs money: launch/pod.sh delete gives it back"
exit "$status"
