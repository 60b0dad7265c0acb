#!/usr/bin/env bash
# Runs the whole recipe from Gemma 3 270M on this machine: launch/foundation.sh [flags]
# It makes a virtual environment, downloads the weights once (240 MB, checked by hash), shows their terms of use, imports
# them as the checkpoint runs/gemma3_270m, trains the three stages from it, evaluates them, and writes a table and
# runs/gemma/report.html. It takes an NVIDIA GPU where there is one. On CPU, Python 3.12 or newer is 1.6 times as fast,
# since it takes a newer jax. The same command continues a run that was stopped.
#   --config.NAME=VALUE  a field of configs/cpu.py or configs/gpu.py, such as --config.workdir=FOLDER
#   --config.pairs=FOLDER  also trains and evaluates on your own datasets
# From the environment:
#   FROM=hub     takes the original weights from the Hugging Face hub, which needs an account that accepted the terms
#   PYTHON, VENV, CONSTRAINTS  see launch/environment.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/shell.sh
show_help launch/foundation.sh "$@"
# Buffers from 4 MiB go back to the system when a step frees them: 1 GB less is resident, at the same speed.
malloc=glibc.malloc
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-$malloc.hugetlb=1:$malloc.mmap_threshold=4194304:$malloc.arena_max=2}
source launch/environment.sh
config=cpu extras=gguf dtype=float32
if command -v nvidia-smi >/dev/null; then
  config=gpu extras=cuda,gguf dtype=bfloat16
elif grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo; then
  dtype=bfloat16 # 1.5 times as fast on processors that multiply it
fi
[ "${FROM:-packages}" = packages ] || extras=$extras,hf
install_embed "[$extras]"
checkpoint=runs/gemma3_270m
python -m embed foundation gemma3_270m "$checkpoint" --from "${FROM:-packages}"
# Layers that are recomputed and not written out take a tenth more time and half the memory. Dev scores would take a
# minute each.
exec python -m experiments.recipe --config="configs/$config.py" --config.dtype="$dtype" --config.remat=True \
  --config.unroll=1 --config.eval=0 --config.pretrained="$checkpoint" --config.workdir=runs/gemma "$@"
