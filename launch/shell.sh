# Sourced by the scripts in this folder: --help, error messages, the version of bash, names of experiments. Runs in bash
# 3.2, which macOS ships.
# shellcheck shell=bash

die() {
  printf '%s\n' "$@" >&2
  exit 2
}

# show_help SCRIPT [arguments]: with --help among the arguments, prints the comment at the head of the script and ends.
show_help() {
  local script=$1 word
  shift
  for word in "$@"; do
    if [ "$word" = --help ] || [ "$word" = -h ]; then
      sed -n '2,$ { /^#/!q; /^# shellcheck/!s/^# \{0,1\}//p; }' "$script"
      exit 0
    fi
  done
}

# require_bash [VERSION]: ends a script where this bash, or the version given, is older than 4.4.
require_bash() {
  local version=${1:-$BASH_VERSION}
  case $version in
    [1-3].* | 4.[0-3] | 4.[0-3].*)
      die "$0 needs bash 4.4 or newer, this is bash $version: install a newer one and put it first on the PATH\
 (macOS ships 3.2; there: brew install bash)"
      ;;
  esac
}

# Prints the names of all experiments, forks and studies in one line.
list_experiments() {
  local file names=''
  for file in experiments/*.py experiments/ablations/*.py experiments/studies/*.py; do
    file=$(basename "$file" .py)
    [ "$file" = __init__ ] || names="${names:+$names, }$file"
  done
  echo "$names"
}

# find_experiment NAME: prints its module, in experiments, experiments.ablations or experiments.studies.
find_experiment() {
  local folder
  for folder in experiments experiments/ablations experiments/studies; do
    if [[ $1 =~ ^[A-Za-z0-9_]+$ && $1 != __init__ && -f $folder/$1.py ]]; then
      echo "${folder//\//.}.$1"
      return
    fi
  done
  die "there is no experiment $1; experiments/, experiments/ablations/ and experiments/studies/ have: $(list_experiments)"
}
