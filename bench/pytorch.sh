#!/bin/sh
# Compares training steps with PyTorch's: makes a virtual environment, builds the example, prints a table.
#
#   bench/pytorch.sh            on all that the CPU has
#   bench/pytorch.sh --avx2     both sides held to AVX2
#
# More options: see bench/pytorch.py. Nothing else should run meanwhile.
set -eu
cd "$(dirname "$0")/.."
venv=target/bench-venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
# The newest PyTorch of PyPI; without a network the one that is there.
"$venv/bin/pip" install --quiet --upgrade torch numpy || "$venv/bin/python" -c "import torch"
features=
for option in "$@"; do
    [ "$option" != "--avx2" ] || features=--no-default-features
done
cargo build --quiet --release -p paceline-model --example step_speed $features
"$venv/bin/python" bench/pytorch.py target/release/examples/step_speed "$@"
