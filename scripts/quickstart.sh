#!/usr/bin/env bash
# One command from a fresh clone to a report: set-up, two SFT phases and a control, sampling, grading.
#
#   bash scripts/quickstart.sh        flags go to scripts/quickstart/run.py
#
# A rerun continues where the last one stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

# Many containers are told to leave no bytecode; then each start of vLLM compiles for half a minute. It goes to .venv.
if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then
    unset PYTHONDONTWRITEBYTECODE
    export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX:-$(realpath "${VENV:-.venv}")/bytecode}"
fi

started=$SECONDS
bash scripts/setup.sh
echo "== set-up: $((SECONDS - started)) s"
"${VENV:-.venv}/bin/python" -m scripts.quickstart.run "$@"
echo "quickstart: $((SECONDS - started)) s with set-up"
