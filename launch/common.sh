# Sourced by pod.sh and gke.sh: the arguments of a launch, and how a command is run or, with --dry-run, printed.
# shellcheck shell=bash
exec 3>&1
dry='' action='' flags=() commit=''
# shellcheck disable=SC2034  # read where this is sourced
place=(--zone="${ZONE:-}" ${PROJECT:+--project="$PROJECT"})
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { printf '%(%H:%M:%S)T %s\n' -1 "$*"; }

die() {
  printf '%s\n' "$@" >&2
  exit 2
}

run() {
  local word line=''
  if [ -z "$dry" ]; then
    "$@"
    return
  fi
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "${line# }" >&3
}

quoted() {
  local words
  printf -v words '%q ' "$@"
  printf '%s' "${words% }"
}

# [--dry-run] ACTION [flags] into dry, action and flags.
arguments() {
  local word
  [ -n "${ZONE:-}" ] || die "set ZONE, where the TPUs are: us-west4-a, say; gcloud compute tpus locations list"
  for word in "$@"; do
    if [ "$word" = --dry-run ]; then
      dry=1
    elif [ -z "$action" ]; then
      action=$word
    else
      flags+=("$word")
    fi
  done
}

# That what is launched is experiments/NAME.py of a commit, on a named TPU, and keeps what it makes. Sets commit.
check() {
  [[ $action =~ ^[A-Za-z0-9_]+$ && -f experiments/$action.py ]] \
    || die "there is no experiments/$action.py: name an experiment, as in experiments/finetune.py"
  [ -z "$(git status --porcelain)" ] \
    || die "what runs is a commit, and this tree is not one; commit or remove first:" "$(git status --short)"
  [[ " ${flags[*]} " == *" --config.workdir"* ]] \
    || die "give --config.workdir=gs://BUCKET/runs: a worker's disk is not shared, and is gone with the worker"
  [ -n "${TPU:-}" ] \
    || die "set TPU, the accelerator type: v5litepod-16, say: gcloud compute tpus accelerator-types list"
  commit=$(git rev-parse HEAD)
}

# The commit, and the file COMMIT with its name, as $scratch/embed.tar.gz.
pack() {
  echo "$commit" >"$scratch/COMMIT"
  run git archive --format=tar.gz --add-file="$scratch/COMMIT" --output="$scratch/embed.tar.gz" "$commit"
}
