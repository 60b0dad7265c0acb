#!/usr/bin/env bash
# Runs an experiment on the TPUs of a GKE cluster, through XPK (pip install xpk): launch/gke.sh [--dry-run] NAME [flags]
#   CLUSTER=tpus TPU=v5litepod-16 ZONE=us-west4-a launch/gke.sh scale --config=configs/tpu_v5e_16.py \
#     --config.workdir=gs://BUCKET/runs --config.data=gs://BUCKET/data
#   launch/gke.sh status           lists the cluster's workloads and their states
#   launch/gke.sh delete           ends the workload WORKLOAD and removes it
#   launch/gke.sh --dry-run NAME   prints the commands and runs none of them
# NAME is a file in experiments/, experiments/ablations/ or experiments/studies/; flags are the experiment's.
# From the environment:
#   CLUSTER    the cluster, made with xpk cluster create
#   TPU        the cluster's accelerator type: v5litepod-16, v5p-128, v6e-256
#   ZONE       the cluster's zone, such as us-west4-a
#   PROJECT    the cluster's project; gcloud's own by default
#   WORKLOAD   the workload's name; embed by default
#   SLICES     the number of slices; 1 by default
#   PRIORITY   very-low, low, medium (the default), high or very-high
#   RESTARTS   how often the cluster restarts it after a preemption; 50 by default
#   IMAGE      the container image that the commit is added to; python:3.12 by default
# Every worker runs launch/worker.sh; xpk prints where its log is. Exit status 75 and lost nodes restart the workload.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/shell.sh
show_help launch/gke.sh "$@"
require_bash
source launch/common.sh
workload=${WORKLOAD:-embed}
parse_arguments "launch/gke.sh [--dry-run] NAME [flags] | status | delete" "$@"
[ -n "${CLUSTER:-}" ] || die "set CLUSTER to the name of the GKE cluster: gcloud container clusters list"
location+=(--cluster="$CLUSTER")

case $action in
  status) run xpk workload list "${location[@]}" ;;
  delete) run xpk workload delete --workload="$workload" --force "${location[@]}" ;;
  *)
    check_launch
    pack
    run mkdir "$scratch/embed"
    run tar -xzf "$scratch/embed.tar.gz" -C "$scratch/embed"
    run xpk workload create --workload="$workload" --tpu-type="$TPU" --num-slices="${SLICES:-1}" \
      --base-docker-image="${IMAGE:-python:3.12}" --script-dir="$scratch/embed" \
      --priority="${PRIORITY:-medium}" --max-restarts="${RESTARTS:-50}" --restart-on-exit-codes=75 \
      --termination-grace-period-seconds=300 \
      --command="exec bash launch/worker.sh $(quote "$action" "${flags[@]}")" "${location[@]}"
    ;;
esac
