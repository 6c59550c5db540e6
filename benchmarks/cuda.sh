#!/usr/bin/env bash
# accord against trl on one CUDA GPU, in under nine minutes: benchmarks/cuda.sh [--device cpu] [--out FOLDER] ...
# Leaves FOLDER/cuda.json and FOLDER/cuda.md. PYTHON names the interpreter. benchmarks/README.md says what is measured.
set -eu
cd "$(dirname "$0")/.."
exec env PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" "${PYTHON:-python3}" benchmarks/cuda.py "$@"
