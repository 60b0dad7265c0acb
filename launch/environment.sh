# Sourced by the other scripts: makes and enters a virtual environment, or says what is missing. From the environment:
#   PYTHON       what makes it; python3 if not given
#   VENV         its folder; .venv if not given
#   CONSTRAINTS  versions to install, a pip constraints file; those of launch/constraints/ that were tested with this
#                Python if not given, /dev/null for the newest
# shellcheck shell=bash
venv=${VENV:-.venv}
[ -n "${PYTHON:-}" ] || [ ! -x "$venv/bin/python" ] || PYTHON=$venv/bin/python
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "no $python here: install Python 3.11 or newer, or set PYTHON to it" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "$("$python" --version) is too old: embed needs 3.11 or newer; set PYTHON to one" >&2; exit 1; }
version=$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
if [ ! -x "$venv/bin/python" ]; then
  "$python" -m venv "$venv" \
    || { echo "cannot make a virtual environment: install Python's venv module (python3-venv)" >&2; exit 1; }
elif [[ $("$venv/bin/python" --version) != "Python $version."* ]]; then
  echo "$venv has $("$venv/bin/python" --version), $python is $version: remove $venv, or set VENV to another folder" >&2
  exit 1
fi
# shellcheck source=/dev/null
source "$venv/bin/activate"
constraints=${CONSTRAINTS:-launch/constraints/python$version.txt}
if [ -z "${CONSTRAINTS:-}" ] && [ ! -e "$constraints" ]; then
  echo "Python $version was not tested: installing the newest version of everything" >&2
  constraints=/dev/null
fi

# install EXTRAS [COMMAND]: what setup.py asks for, where that is not done; pip is run by the command. Editable, so that a
# changed tree needs no other installation.
install() {
  cat setup.py "$constraints" | cmp -s - "$venv/installed$1" && return
  ${2:-} pip install --quiet --no-compile --constraint "$constraints" --editable ".$1" || return
  cat setup.py "$constraints" >"$venv/installed$1"
}

# Every step frees its arrays and takes them again; with large pages that costs a CPU little, with small ones a fifth of
# the time. Read by glibc 2.35 and newer, ignored elsewhere.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
