# Sourced by pod.sh and gke.sh: the arguments of a launch, and a command that is run or, with --dry-run, printed.
# shellcheck shell=bash
exec 3>&1
dry='' action='' flags=() commit=''
# shellcheck disable=SC2034  # read by pod.sh and gke.sh
location=(--zone="${ZONE:-}" ${PROJECT:+--project="$PROJECT"})
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

log() { printf '%(%H:%M:%S)T %s\n' -1 "$*"; }

# run COMMAND: runs it or, with --dry-run, prints it in a form that a shell reads back.
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

quote() {
  local words
  printf -v words '%q ' "$@"
  printf '%s' "${words% }"
}

# parse_arguments USAGE [--dry-run] ACTION [flags]: sets dry, action and flags.
parse_arguments() {
  local usage=$1 word
  shift
  for word in "$@"; do
    if [ "$word" = --dry-run ]; then
      dry=1
    elif [ -z "$action" ]; then
      action=$word
    else
      flags+=("$word")
    fi
  done
  [ -n "$action" ] || die "usage: $usage; --help explains"
  [ -n "${ZONE:-}" ] || die "set ZONE to the zone of the TPUs, such as us-west4-a: gcloud compute tpus locations list"
}

# Checks that the experiment exists and is committed, and that TPU and the workdir are given. Sets commit.
check_launch() {
  local module changes
  module=$(find_experiment "$action")
  [[ " ${flags[*]} " == *" --config.workdir"* ]] \
    || die "give --config.workdir=gs://BUCKET/runs: a worker's disk is not shared, and is lost with the worker"
  [ -n "${TPU:-}" ] \
    || die "set TPU to the accelerator type, such as v5litepod-16: gcloud compute tpus accelerator-types list"
  if ! commit=$(git rev-parse --quiet --verify HEAD 2>/dev/null); then
    commit=HEAD
    refuse "a launch runs a commit, and this tree has none: git init, git add, git commit"
    return
  fi
  changes=$(git status --short)
  if [ -n "$changes" ]; then
    refuse "a launch runs a commit, and this tree has uncommitted changes; commit or remove them first:" "$changes"
  elif ! git cat-file -e "$commit:${module//.//}.py" 2>/dev/null; then
    refuse "a launch runs a commit, and git ignores ${module//.//}.py"
  fi
}

# Ends the script with a message, or only prints it with --dry-run.
refuse() {
  [ -n "$dry" ] || die "$@"
  printf 'without --dry-run, this is refused: ' >&2
  printf '%s\n' "$@" >&2
}

# Writes the commit, with its name in the file COMMIT, to $scratch/embed.tar.gz.
pack() {
  echo "$commit" >"$scratch/COMMIT"
  run git archive --format=tar.gz --add-file="$scratch/COMMIT" --output="$scratch/embed.tar.gz" "$commit"
}
