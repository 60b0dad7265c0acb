# Sourced by the other scripts: makes and enters .venv, or says what is missing.
# shellcheck shell=bash
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "no $python here: install Python 3.11 or newer, or set PYTHON to it" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "$("$python" --version) is too old: embed needs 3.11 or newer; set PYTHON to one" >&2; exit 1; }
[ -x .venv/bin/python ] || "$python" -m venv .venv \
  || { echo "cannot make a virtual environment: install Python's venv module (python3-venv)" >&2; exit 1; }
# shellcheck source=/dev/null
source .venv/bin/activate
# Every step frees its arrays and takes them again; with large pages that costs a CPU little, with small ones a fifth of
# the time. Read by glibc 2.35 and newer, ignored elsewhere.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
