#!/usr/bin/env bash
# Makes the virtual environment .venv with everything in the versions of deploy/constraints.txt, each file compared with
# the hashes of deploy/hashes.txt.
# Where something is missing that only the machine's owner can add, says so in one line and stops.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
venv=${VENV:-.venv}

missing=()
command -v "$python" >/dev/null || missing+=(python3)
if command -v "$python" >/dev/null; then
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' ||
    { echo "mondrian: Python 3.11 or 3.12 is needed, and $python is $("$python" -V 2>&1 | cut -d' ' -f2); name another one: make PYTHON=python3.11" >&2; exit 2; }
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    missing+=(python3-dev)
fi
# hnswlib is compiled on this machine.
command -v c++ >/dev/null || command -v g++ >/dev/null || missing+=(g++)
if [ ${#missing[@]} -gt 0 ]; then
  echo "mondrian: this machine lacks ${missing[*]}: apt-get install ${missing[*]}" >&2
  exit 2
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
pinned() { grep -m1 -o "^$1==[^ ]*" deploy/constraints.txt; }
hashed=(--require-hashes --constraint deploy/hashes.txt)
torch=$(pinned torch)

# Older pips take no hashes from a constraints file.
sed -n '/^pip==/,/[^\\]$/p' deploy/hashes.txt | "${pip[@]}" install --quiet --require-hashes --requirement /dev/stdin
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
  # torch comes first and alone: whoever asks for it later finds it there. Without a GPU the CPU build is asked for by
  # its local version, which saves gigabytes of CUDA; where no index offers it, the plain one is taken. Its wheels, and
  # torchvision's, differ by platform and index, so they are pinned but not hashed, nor is what a CUDA build brings.
  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    "${pip[@]}" install --quiet --constraint deploy/constraints.txt "$torch"
  else
    "${pip[@]}" install --quiet --no-deps "$torch+cpu" 2>/dev/null || {
      echo "mondrian: no index offers $torch+cpu; taking the plain build, with gigabytes of CUDA on x86-64 (README, Installation, tells how to avoid it)" >&2
      "${pip[@]}" install --quiet --constraint deploy/constraints.txt "$torch"
    }
  fi
fi
# torchvision's own requirements would name a torch build again.
"${pip[@]}" install --quiet --no-deps "$(pinned torchvision)"
# A folder has no hash, so what this one requires is installed before it. What builds it is hashed too.
mapfile -t required < <("$venv/bin/python" deploy/images/project.py requirements pyproject.toml all dev)
export PIP_BUILD_CONSTRAINT=deploy/hashes.txt
"${pip[@]}" install --quiet "${hashed[@]}" "${required[@]}"
"${pip[@]}" install --quiet --no-deps --editable .
# xgrammar names triton, 700 MB that only a CUDA build of torch uses.
if "$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then
  "${pip[@]}" uninstall --quiet --yes triton
fi
