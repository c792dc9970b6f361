#!/usr/bin/env bash
# Sets up what is missing, then runs the tests.
#
#   bash scripts/test.sh                     the fast ones: 16 to 20 minutes on two cores
#   bash scripts/test.sh --slow              those marked slow as well
#   bash scripts/test.sh --cluster           two nodes on this machine (Slurm, ssh, Ray): 21 minutes, as root; says which
#                                            of Debian's packages it lacks, or ray, and installs nothing
#   bash scripts/test.sh tests/grading -x    any other flag goes to pytest; WORKERS=0 for one process
#
# Tests on real benchmark problems run where PROMPTCOT_BENCHMARKS names their folder, and skip elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false
# Many containers are told to leave no bytecode; then each start of vLLM compiles for half a minute. It goes to .venv.
if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then
    unset PYTHONDONTWRITEBYTECODE
    export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX:-$(realpath "${VENV:-.venv}")/bytecode}"
fi
if [ "${1:-}" = --cluster ]; then
    shift
    exec "${VENV:-.venv}/bin/python" -m pytest -m slow -rs --durations=0 tests/cluster "$@"
fi

bash scripts/setup.sh

marks=()
if [ "${1:-}" = --slow ]; then
    marks=(-m "not network")
    shift
fi
# Two test processes of one thread each. Whole files go to one of them, so that what a file's tests share is made once,
# in the order of their paths, so that no long file is left for the end.
exec "${VENV:-.venv}/bin/python" -m pytest -n "${WORKERS:-2}" --dist loadfile --no-loadscope-reorder "${marks[@]}" "$@"
