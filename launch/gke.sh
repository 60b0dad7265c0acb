#!/usr/bin/env bash
# Runs an experiment on the TPUs of a GKE cluster, through XPK (pip install xpk): launch/gke.sh NAME [flags]
#   CLUSTER=tpus TPU=v5litepod-16 ZONE=us-west4-a launch/gke.sh scale --config=configs/v5e_16.py \
#     --config.workdir=gs://BUCKET/runs --config.data=gs://BUCKET/data
#   launch/gke.sh status           the cluster's workloads and their states
#   launch/gke.sh delete           ends the workload WORKLOAD and removes it
#   launch/gke.sh --dry-run NAME   prints the commands, and runs none
# From the environment:
#   CLUSTER    made with xpk cluster create
#   TPU        v5litepod-16, v5p-128, v6e-256, as the cluster has it
#   ZONE, PROJECT  the cluster's; the project is gcloud's own if not given
#   WORKLOAD   its name, embed if not given
#   SLICES     their number, 1 if not given
#   PRIORITY   very-low, low, medium, high or very-high; medium if not given
#   RESTARTS   how often the cluster starts it again after a preemption, 50 if not given
#   IMAGE      what the commit is put into, python:3.12 if not given
# Every worker runs launch/worker.sh; the log is where xpk says. Status 75 and lost nodes start the workload again.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
workload=${WORKLOAD:-embed}
arguments "$@"
[ -n "$action" ] || die "usage: launch/gke.sh [--dry-run] NAME [flags] | status | delete; see its first lines"
[ -n "${CLUSTER:-}" ] || die "set CLUSTER, the name of the GKE cluster: gcloud container clusters list"
place+=(--cluster="$CLUSTER")

case $action in
  status) run xpk workload list "${place[@]}" ;;
  delete) run xpk workload delete --workload="$workload" --force "${place[@]}" ;;
  *)
    check
    pack
    run mkdir "$scratch/embed"
    run tar -xzf "$scratch/embed.tar.gz" -C "$scratch/embed"
    run xpk workload create --workload="$workload" --tpu-type="$TPU" --num-slices="${SLICES:-1}" \
      --base-docker-image="${IMAGE:-python:3.12}" --script-dir="$scratch/embed" \
      --priority="${PRIORITY:-medium}" --max-restarts="${RESTARTS:-50}" --restart-on-exit-codes=75 \
      --termination-grace-period-seconds=300 \
      --command="exec bash launch/worker.sh $(quoted "$action" "${flags[@]}")" "${place[@]}"
    ;;
esac
