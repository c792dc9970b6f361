#!/usr/bin/env bash
# One command from a fresh clone to a report: set-up, two SFT phases and a control, sampling, grading.
#
#   bash scripts/quickstart.sh        flags go to scripts/quickstart/run.py
#
# A rerun continues where the last one stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

started=$SECONDS
bash scripts/setup.sh
echo "== set-up: $((SECONDS - started)) s"
"${VENV:-.venv}/bin/python" -m scripts.quickstart.run "$@"
echo "quickstart: $((SECONDS - started)) s with set-up"
