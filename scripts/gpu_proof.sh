#!/usr/bin/env bash
# What only a GPU can settle, part by part: each under its own time limit, each resumed where it stopped.
#
#   bash scripts/gpu_proof.sh                      every part
#   bash scripts/gpu_proof.sh correctness speed    these parts
#   WHEELS=wheels bash scripts/gpu_proof.sh        peers (mamba-ssm, causal-conv1d, liger-kernel) from a folder of wheels
#   DRY_RUN=1 bash scripts/gpu_proof.sh            the same commands at tiny shapes on the CPU
#
# Parts: correctness, speed, sanitizer. Rows go to docs/records/<device>-<date>.json; what is there is not measured again.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-python3}"
LIMIT="${LIMIT:-600}" # seconds a part may take
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(correctness speed sanitizer)

if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --find-links "$WHEELS" "$WHEELS"/*.whl
fi

flags=()
[ -z "${DRY_RUN:-}" ] || flags=(--dry_run True)

run_part() {
    case "$1" in
        correctness | speed)
            timeout "$LIMIT" "$PYTHON" -m scripts.bench_kernels --part "$1" "${flags[@]}"
            ;;
        sanitizer)
            # Every memory access of every kernel at small shapes; slow, so one op and one dtype at a time would do too.
            local checker=(compute-sanitizer --tool memcheck --error-exitcode 9)
            [ -z "${DRY_RUN:-}" ] || checker=()
            timeout "$LIMIT" "${checker[@]}" "$PYTHON" -m scripts.bench_kernels --part correctness --small True \
                --record "${TMPDIR:-/tmp}/sanitizer-$$.json" "${flags[@]}"
            ;;
        *)
            echo "error: unknown part '$1'; choose of correctness, speed, sanitizer" >&2
            exit 2
            ;;
    esac
}

status=0
for part in "${parts[@]}"; do
    echo "== $part"
    run_part "$part" || { code=$?; [ "$code" -ne 2 ] || exit 2; echo "$part: exit $code" >&2; status=1; }
done
exit "$status"
