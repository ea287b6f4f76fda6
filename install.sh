#!/usr/bin/env bash
# Makes .venv beside this file, installs rqchat into it and runs it. `./install.sh --help` says how.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage:
  ./install.sh                   install rqchat into .venv beside this file
  ./install.sh ARGUMENT...       install if needed, then run rqchat with these arguments
  ./install.sh --test [ARG]...   install the development tools too, then run every check
                                 (arguments go to pytest; --compile-all compiles every kernel,
                                 not only those that have changed)
  ./install.sh --help            show this text; rqchat's own is at .venv/bin/rqchat --help

It needs bash and Python 3.11 or newer, no root. It writes into .venv and nowhere else but pip's
cache, and does nothing where nothing is to do. To start over, delete .venv.
TEXT
}

say() { printf 'install.sh: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# The folder of this file, also when it is called through symbolic links.
self=${BASH_SOURCE[0]}
while [[ -L $self ]]; do
  target=$(readlink "$self")
  [[ $target == /* ]] || target=$(dirname "$self")/$target
  self=$target
done
root=$(CDPATH='' cd -- "$(dirname "$self")" && pwd -P)
venv=$root/.venv
python=$venv/bin/python
wheels=https://download.pytorch.org/whl

# What an installation depends on: where it lies and what pyproject.toml asks for.
fingerprint() { printf '%s %s\n' "$root" "$(cksum <"$root/pyproject.toml")"; }

# ready WHAT: WHAT (run or test) was installed from this pyproject.toml, and its Python still works.
ready() {
  [[ -f $venv/$1.stamp && $(<"$venv/$1.stamp") == "$(fingerprint)" ]] &&
    "$python" -I -c 'import rqchat' </dev/null 2>/dev/null
}

find_python() {
  local candidate version without_venv=''
  for candidate in python3.13 python3.12 python3.11 python3.14 python3; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])
sys.exit(sys.version_info < (3, 11))' 2>/dev/null) || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
    without_venv=$version
  done
  [[ -z $without_venv ]] ||
    die "Python $without_venv lacks venv. On Debian and Ubuntu: sudo apt-get install python$without_venv-venv"
  die "no Python 3.11 or newer found. Install one (Debian and Ubuntu: sudo apt-get install python3 python3-venv)"
}

make_venv() {
  if "$python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    return
  fi
  local base
  base=$(find_python)
  if [[ -e $venv ]]; then
    say "$venv is broken: making it anew with $base"
  else
    say "making $venv with $base"
  fi
  "$base" -m venv --clear "$venv" || die "$base -m venv failed; its message stands above"
  # Python's own pip may be years old, and then takes half a minute more to choose releases
  "$python" -m pip install --disable-pip-version-check -qq --no-compile --upgrade pip 2>/dev/null ||
    say 'pip could not be brought up to date: installing with the one that came with Python'
}

# Without bytecode: pip would compile 11,000 files in two and a half minutes of one core.
pip_install() {
  local volume=-qq
  [[ ! -t 2 ]] || volume=--progress-bar=on
  "$python" -m pip install --disable-pip-version-check --no-compile "$volume" "$@" ||
    die "pip failed; its message stands above. Mend that and run this again: it goes on from there"
}

accelerator() {
  if [[ -e /proc/driver/nvidia/version ]] || nvidia-smi -L >/dev/null 2>&1; then
    echo nvidia
  elif [[ -e /dev/kfd ]] || rocminfo >/dev/null 2>&1; then
    echo amd
  else
    echo none
  fi
}

# The thread ends the process even while a name look-up hangs.
reachable() {
  "$python" -c 'import os, sys, threading, urllib.request
timer = threading.Timer(5, os._exit, (1,))
timer.daemon = True
timer.start()
urllib.request.urlopen(sys.argv[1]).close()' "$1" 2>/dev/null
}

# The index for an NVIDIA driver, or nothing for pip's own, whose build needs CUDA 13.
cuda_index() {
  local supported major minor
  supported=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\.[0-9]*\).*/\1/p')
  IFS=. read -r major minor <<<"${supported:-13.0}"
  if ((major >= 13)); then
    return
  elif ((major == 12 && minor >= 8)); then
    echo "$wheels/cu128"
  else
    echo "$wheels/cu126"
  fi
}

install_torch() {
  local device=$1 wanted index=''
  wanted=$(sed -n 's/^ *"\(torch[<>=][^"]*\)",*$/\1/p' "$root/pyproject.toml")
  if [[ -f $venv/torch.stamp && $(<"$venv/torch.stamp") == "$wanted" ]]; then
    return
  fi
  local requirement=$wanted
  if [[ $device == nvidia ]]; then
    index=$(cuda_index)
    say "NVIDIA GPU: installing PyTorch for CUDA from ${index:-the index of pip} (some GB)"
  elif [[ $device == amd ]]; then
    index=$wheels/rocm7.2
    say "AMD GPU: installing PyTorch for ROCm from $index (some GB)"
  elif [[ $(uname -s) != Linux ]]; then
    say "no NVIDIA or AMD GPU: installing PyTorch from pip's index"
  elif reachable "$wheels/cpu/torch/"; then
    index=$wheels/cpu
    say "no GPU: installing PyTorch for the CPU from $index (200 MB)"
  else
    # pip's index may be a local one that holds this release as a CPU build.
    requirement=torch==2.13.0
    say "no GPU: installing $requirement from pip's index, as $wheels/cpu cannot be reached;" \
      "where that index has CUDA builds only, this downloads several GB"
  fi
  pip_install ${index:+--index-url "$index"} "$requirement"
  printf '%s\n' "$wanted" >"$venv/torch.stamp"
}

# The quarter of all files that a start needs; what was installed is tried at the same time.
compile_imports() {
  say 'preparing the first start'
  PYTHONDONTWRITEBYTECODE='' "$python" -c 'import rqchat.cli.app
from rqchat.engine.lean_import import import_transformers
import_transformers()
import rqchat.engine.session' ||
    die 'rqchat cannot be imported; the reason stands above. To start over, delete .venv'
}

# install WHAT: brings .venv to where `ready WHAT` holds.
install() {
  local what=$1 device extras='' requirement beside=''
  cd -- "$root"
  make_venv
  device=$(accelerator)
  [[ $device == none ]] || extras=gpu
  if [[ $what == test && $device == none ]]; then
    # Half of the time of an installation is unpacking torch and Triton, which need nothing of each
    # other: one process, and one core, for each.
    requirement=$(sed -n 's/^triton = \["\(.*\)"\]$/\1/p' "$root/pyproject.toml")
    pip_install --no-deps "$requirement" &
    beside=$!
  fi
  install_torch "$device"
  [[ -z $beside ]] || wait "$beside" || exit 1
  if [[ $what == test ]]; then
    extras=${extras:-triton},test
  fi
  say "installing rqchat${extras:+ with $extras}"
  # Half of what a first start compiles is torch, which is there already: beside pip, on another core
  PYTHONDONTWRITEBYTECODE='' "$python" -W ignore -c 'import torch' 2>/dev/null &
  pip_install --editable ".${extras:+[$extras]}"
  wait
  compile_imports
  fingerprint >"$venv/run.stamp"
  [[ $what != test ]] || fingerprint >"$venv/test.stamp"
  say "installed in $SECONDS s"
}

# In a subshell, so that rqchat keeps the caller's folder, and with nothing on standard output or
# taken from standard input, which are rqchat's.
ensure() { ready "$1" || (install "$1") </dev/null >&2; }

case ${1-} in
  -h | --help) usage ;;
  '')
    ensure run
    say 'ready. Chat: .venv/bin/rqchat    Ask once: .venv/bin/rqchat ask "..."    What fits: .venv/bin/rqchat plan'
    ;;
  --test)
    shift
    ensure test
    exec "$root/.ci/check" "$@"
    ;;
  *)
    ensure run
    exec "$venv/bin/rqchat" "$@"
    ;;
esac
