#!/usr/bin/env bash
# Runs an experiment on a Cloud TPU slice, which it asks for where it is not there: launch/pod.sh NAME [flags]
#   TPU=v5litepod-16 ZONE=us-west4-a launch/pod.sh scale --config=configs/v5e_16.py \
#     --config.workdir=gs://BUCKET/runs --config.data=gs://BUCKET/data
#   launch/pod.sh status           what there is of the slice, and what its workers do
#   launch/pod.sh stop             ends the run, which saves a checkpoint; a second one kills it
#   launch/pod.sh delete           gives the slice back: until then it costs money, idle or not
#   launch/pod.sh --dry-run NAME   prints the commands for a slice that is not there yet, and runs none
# From the environment:
#   TPU      accelerator type; v5litepod-16 and v6e-256 count chips, v5p-128 TensorCores, two a chip
#   ZONE     where, such as us-west4-a
#   PROJECT  gcloud's own if not given
#   SPOT=1   cheaper, and taken away at any time; without it, on demand
#   POD      the slice's name, embed if not given
#   POLL     seconds between looks, 30 if not given
# The run is on the workers and goes on without this program: Ctrl-C and a lost connection end the following alone, and
# the same command follows again, or starts again what has ended. A slice that was taken away is asked for again, and
# the run goes on from its last checkpoint. Ends with the run's status; the slice stays.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
pod=${POD:-embed} poll=${POLL:-30} from=1 workers=0 request='' node=''
arguments "$@"
[ -n "$action" ] || die "usage: launch/pod.sh [--dry-run] NAME [flags] | status | stop | delete; see its first lines"

tpus() { run gcloud compute tpus "$@" "${place[@]}"; }

# A command on worker N or all; what gcloud says of it is shown where it fails.
on() {
  local status=0
  tpus tpu-vm ssh "$pod" --worker="$1" --command="$2" --ssh-flag="-o ServerAliveInterval=15" --quiet \
    2>"$scratch/said" || status=$?
  (( status == 0 )) || cat "$scratch/said" >&2
  return "$status"
}

# The states of the request and of its node, each none where there is none.
states() {
  local found
  found=$(tpus queued-resources list --format="value(name.basename(),state.state)") || return
  request=$(awk -v name="$pod" '$1 == name { print $2 }' <<<"$found")
  found=$(tpus tpu-vm list --format="value(name.basename(),state)") || return
  node=$(awk -v name="$pod" '$1 == name { print $2 }' <<<"$found")
  request=${request:-none} node=${node:-none}
}

create() {
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

delete() { tpus queued-resources delete "$pod" --force --quiet; }

# Sets workers, their number.
count() {
  local found type
  found=$(tpus tpu-vm describe "$pod" --format="value(acceleratorType,networkEndpoints.len())") || return
  read -r type workers <<<"$found"
  [ -n "$dry" ] || [ "$type" = "$TPU" ] \
    || die "$pod is a $type, not a $TPU: launch/pod.sh delete, or name another slice with POD"
}

# Returns when the slice is there: asked for, waited for and, where it was taken away, asked for again.
had='' asked='' there=''  # was it ready, did we ask for it, and is it to be there
secure() {
  local last=''
  while true; do
    if ! states; then
      say "no answer about $pod; asked again in $poll s"
    else
      [ "$request $node" = "$last" ] || [ "$last$request $node" = "ACTIVE READY" ] \
        || say "$pod: request $request, node $node"
      last="$request $node"
      case $request-$node in
        ACTIVE-READY)
          there=1
          if (( workers > 0 )) || count; then had=1; return; fi
          ;;
        none-*)
          [ -z "$there" ] || die "$pod was deleted; the same command asks for it again and goes on from a checkpoint"
          if create; then
            asked=1 there=1 from=1 workers=0
          elif [ -z "$had" ]; then
            die "$pod cannot be asked for, see above"
          fi
          ;;
        FAILED-*)
          if [ -n "$asked" ] && [ -z "$had" ]; then
            tpus queued-resources describe "$pod"
            die "the request for $pod failed, see above"
          fi
          if delete; then there=''; fi
          ;;
        SUSPENDED-* | ACTIVE-PREEMPTED | ACTIVE-TERMINATED) if delete; then there=''; fi ;;
        *) there=1 ;;
      esac
    fi
    sleep "$poll"
  done
}

# The commit, in the folder embed of every worker; .venv and runs stay.
ship() {
  local unpack
  pack || return
  tpus tpu-vm scp "$scratch/embed.tar.gz" "$pod:embed-$commit.tar.gz" --worker=all --quiet || return
  unpack="mkdir -p embed && cd embed && if [ \"\$(cat COMMIT 2>/dev/null)\" != $commit ]; then rm -f COMMIT &&"
  unpack+=" find . -mindepth 1 -maxdepth 1 ! -name .venv ! -name runs -exec rm -rf {} + &&"
  unpack+=" tar -xzf ../embed-$commit.tar.gz; fi"
  on all "$unpack"
}

# Past what worker 0 has logged of earlier runs.
skip() { from=$(on 0 "cat embed/runs/worker/log 2>/dev/null | wc -l" | awk 'END { print $1 + 1 }'); }

start() { on all "embed/launch/remote.sh start $command"; }

# A line of every worker.
ask() { on all "if [ -x embed/launch/remote.sh ]; then embed/launch/remote.sh state; else echo \$(hostname) none; fi"; }

# Prints what worker 0 has logged since, for a while. Lines are numbered: gcloud sends a command again when a connection
# breaks.
follow() {
  local line base=0 number
  while IFS= read -r line; do
    case $line in
      "from "*) base=$((${line#from } - 1)) ;;
      *)
        number=$((base + ${line%%:*}))
        if (( number >= from )); then
          printf '%s\n' "${line#*:}"
          from=$((number + 1))
        fi
        ;;
    esac
  done < <(on 0 "embed/launch/remote.sh log $from $poll")
}

# Secures, ships, starts and follows until every worker has ended; sets status.
manage() {
  local found running ended begun='' stopped=''
  while true; do
    secure
    if ! found=$(ask) || (( $(grep -cE ' (none|lost|running .*|ended [0-9]+)$' <<<"$found") < workers )); then
      say "not all of the $workers workers of $pod answer"
      sleep "$poll"
      continue
    fi
    running=$(sed -n 's/^[^ ]* running //p' <<<"$found")
    ended=$(sed -n 's/^[^ ]* ended //p' <<<"$found")
    if grep -qvxF "$commit $command" <<<"${running:-$commit $command}"; then
      die "$pod runs something else; launch/pod.sh stop ends it, POD=NAME is another slice:" "$running"
    fi
    if [ -z "$begun" ] && [ -n "$running" ]; then
      say "$action is running on $pod: following it"
      from=-20
    fi
    if grep -qE ' (none|lost)$' <<<"$found" || [ -z "$begun$running" ]; then
      say "starting $action on the $workers workers of $pod, at commit $commit"
      [ -n "$begun" ] || skip || continue
      if ship && start >"$scratch/started"; then begun=1; else sleep "$poll"; fi
      continue
    fi
    begun=1
    follow
    if [ -z "$running" ]; then
      status=$(grep -vx -m1 -e 0 -e 75 <<<"$ended" || sort -n <<<"$ended" | tail -n 1)
      return
    fi
    if [ -z "$stopped" ] && grep -qvx -e 0 -e 75 <<<"${ended:-0}"; then
      say "a worker ended with a failure: stopping the others"
      on all "embed/launch/remote.sh stop" >"$scratch/stopped"
      stopped=1
    fi
  done
}

case $action in
  status)
    states
    say "$pod: request $request, node $node"
    if [ -n "$dry" ] || [ "$node" = READY ]; then ask; fi
    exit
    ;;
  stop)
    on all "embed/launch/remote.sh stop"
    [ -z "$dry" ] || exit 0
    while ask >"$scratch/state" && grep ' running ' "$scratch/state"; do sleep "$poll"; done
    say "stopped; the slice stays: launch/pod.sh delete gives it back"
    exit
    ;;
  delete)
    delete
    exit
    ;;
esac

check
command=$(quoted "$action" "${flags[@]}")
if [ -n "$dry" ]; then
  states; create; states; count; ask; skip; ship; start; follow
  exit
fi
trap 'echo; say "no longer following: what was begun on $pod goes on. The same command follows it; launch/pod.sh stop \
ends the run, launch/pod.sh delete gives the slice back"; exit 130' INT
states
manage
say "$action ended with status $status; $pod still costs money: launch/pod.sh delete gives it back"
exit "$status"
