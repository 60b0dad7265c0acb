#!/usr/bin/env bash
# Makes the repository's virtual environment where there is none, and enters it: source launch/environment.sh
# From the environment:
#   PYTHON       the Python that makes it; by default the virtual environment's own, or python3
#   VENV         its folder; .venv in the repository by default; a relative path counts from the repository
#   CONSTRAINTS  a pip constraints file with the versions to install; by default the one in launch/constraints/ that was
#                tested with this Python; /dev/null for the newest versions
# Needs bash, of any version. On an error it prints one line and returns status 1; the shell stays open.
# Scripts then call install_embed, which installs what setup.py asks for.
# shellcheck shell=bash
if [ -z "${BASH_VERSION:-}" ]; then
  echo "launch/environment.sh needs bash: run bash, then source it again; or only enter .venv: source .venv/bin/activate" >&2
  return 1
fi
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  cd "$(dirname "$0")/.." || exit
  source launch/shell.sh
  show_help launch/environment.sh "$@"
  die "launch/environment.sh changes the shell that sources it: source launch/environment.sh; --help explains"
fi

embed_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
embed_venv='' embed_constraints=''

enter_environment() {
  local venv=${VENV:-.venv} python version
  [[ $venv == /* ]] || venv=$embed_root/$venv
  python=${PYTHON:-}
  if [ -z "$python" ]; then
    python=python3
    [ ! -x "$venv/bin/python" ] || python=$venv/bin/python
  fi
  if ! command -v "$python" >/dev/null; then
    echo "no $python here: install Python 3.11 or newer, or set PYTHON to it" >&2
    return 1
  fi
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$("$python" --version) is too old: embed needs 3.11 or newer; set PYTHON to one" >&2
    return 1
  fi
  version=$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
  if [ ! -x "$venv/bin/python" ]; then
    if ! "$python" -m venv "$venv"; then
      echo "cannot make a virtual environment: install Python's venv module (python3-venv)" >&2
      return 1
    fi
  elif [[ $("$venv/bin/python" --version) != "Python $version."* ]]; then
    echo "$venv has $("$venv/bin/python" --version), $python is $version: remove $venv, or set VENV to another folder" >&2
    return 1
  fi
  embed_constraints=${CONSTRAINTS:-$embed_root/launch/constraints/python$version.txt}
  if [ -z "${CONSTRAINTS:-}" ] && [ ! -e "$embed_constraints" ]; then
    echo "Python $version was not tested: installing the newest version of everything" >&2
    embed_constraints=/dev/null
  fi
  # shellcheck source=/dev/null
  source "$venv/bin/activate"
  embed_venv=$venv
}

# install_embed EXTRAS [COMMAND]: installs what setup.py asks for, unless that is done already; COMMAND, where given, runs
# pip. The installation is editable, so that a changed tree needs no other one.
install_embed() {
  cat "$embed_root/setup.py" "$embed_constraints" | cmp -s - "$embed_venv/installed$1" && return
  ${2:-} pip install --quiet --no-compile --constraint "$embed_constraints" --editable "$embed_root$1" || return
  cat "$embed_root/setup.py" "$embed_constraints" >"$embed_venv/installed$1"
}

enter_environment || return
# Every step frees its arrays and allocates them again. With large pages that costs a CPU little, with small ones a fifth
# of the time. glibc 2.35 and newer read this; others ignore it.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
