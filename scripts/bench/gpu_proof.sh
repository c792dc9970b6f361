#!/usr/bin/env bash
# What only a GPU can settle, part by part: each under its own time limit, each continued where it stopped.
#
#   bash scripts/bench/gpu_proof.sh                         every part
#   bash scripts/bench/gpu_proof.sh correctness speed       these parts
#   bash scripts/bench/gpu_proof.sh --overwrite speed       measured anew, into a record of today
#   WHEELS=wheels bash scripts/bench/gpu_proof.sh peers     peers from a folder, with no network (scripts/bench/gpu_peers.sh)
#   DRY_RUN=1 bash scripts/bench/gpu_proof.sh               the same commands at tiny shapes on the CPU; records in a scratch folder
#
# Parts: peers, correctness, step, sanitizer, speed, profile, train, train_lengths, sampling, efficiency. Each writes
# docs/records/<device>-<date>-<part>.json, which scripts.make_report reads. LIMIT=600 is a part's seconds; one that ran
# out of them has kept what it measured: start it again. docs/gpu_proof.md says what each part measures.
set -euo pipefail
cd "$(dirname "$0")/../.."

PYTHON="${PYTHON:-python3}"
LIMIT="${LIMIT:-600}"
RECORDS="${RECORDS:-docs/records}"
EFFICIENCY_LENGTHS="${EFFICIENCY_LENGTHS:-1024 4096 16384}"
# DeepSpeed builds the offloaded optimizer with the ninja that it finds on PATH: that of an environment not activated, too.
PATH="$(dirname "$(command -v "$PYTHON")"):$PATH"
ALL=(peers correctness step sanitizer speed profile train train_lengths sampling efficiency)

overwrite=
parts=()
for word in "$@"; do
    case "$word" in
        --overwrite) overwrite=1 ;;
        -*) echo "error: unknown flag '$word'; usage: bash scripts/bench/gpu_proof.sh [--overwrite] [PART ...]" >&2; exit 2 ;;
        *) parts+=("$word") ;;
    esac
done
[ ${#parts[@]} -gt 0 ] || parts=("${ALL[@]}")
for part in "${parts[@]}"; do
    case " ${ALL[*]} " in *" $part "*) ;; *) echo "error: unknown part '$part'; choose of ${ALL[*]}" >&2; exit 2 ;; esac
done

if [ -n "${DRY_RUN:-}" ]; then
    RECORDS=$(mktemp -d) # a rehearsal's figures are nobody's record
    trap 'rm -rf "$RECORDS"' EXIT
    device=cpu-dry-run
else
    # The first that this process may use, a MIG instance too; what a failing nvidia-smi prints is no name.
    read -r memory device < <("$PYTHON" -c 'from psutil import virtual_memory
from promptcot_mamba.gpus import list_gpus
for gpu in list_gpus()[:1]: print((gpu.memory or virtual_memory().total) >> 20, gpu.name)') || true
    device=$(tr 'A-Z ' 'a-z-' <<<"${device:-}" | tr -cd 'a-z0-9.-')
    [ -n "$device" ] || { echo "error: no CUDA device here; DRY_RUN=1 rehearses on the CPU" >&2; exit 2; }
fi

# The latest record of this device and part, which is continued, or a new one of today.
record_of() {
    local found
    found=$(ls "$RECORDS/$device"-[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]-"$1".json 2>/dev/null | tail -n 1) || true
    if [ -n "$found" ] && [ -z "$overwrite" ]; then echo "$found"; else echo "$RECORDS/$device-$(date +%F)-$1.json"; fi
}

# run RECORD PROGRAM [FLAGS...]: under the limit; what is still there 20 s after it is killed.
run() { timeout --kill-after 20 "$LIMIT" "$PYTHON" -m "$2" --record "$1" "${@:3}"; }

run_part() {
    local record common=()
    record=$(record_of "$1")
    [ -z "$overwrite" ] || common+=(--overwrite True)
    [ -z "${DRY_RUN:-}" ] || common+=(--dry_run True)
    case "$1" in
        peers)
            [ -n "${WHEELS:-}" ] || { echo "WHEELS is unset: peers as installed"; return 0; }
            PYTHON="$PYTHON" timeout --kill-after 20 "$LIMIT" bash scripts/bench/gpu_peers.sh "$WHEELS"
            ;;
        correctness | step | sanitizer | speed | profile)
            run "$record" scripts.bench.kernels --part "$1" "${common[@]}"
            ;;
        train) run "$record" scripts.bench.step_7b --part step "${common[@]}" ;;
        train_lengths) run "$record" scripts.bench.step_7b --part lengths "${common[@]}" ;;
        sampling) run_sampling "$record" ;;
        efficiency) run_efficiency "$record" ;;
    esac
}

has_vllm() {
    "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("vllm") is None)' && return
    echo "$1: not measured: vllm is not installed"
    return 1
}

run_sampling() {
    has_vllm sampling || return 0
    local shape=(--dummy 7b --problems 60 --n 16 --max_num_seqs 256 --median_len 100 --max_len 1024 --pairs 5)
    [ -z "${DRY_RUN:-}" ] || shape=(--dummy tiny --problems 4 --n 2 --max_num_seqs 4 --max_len 24 --pairs 1)
    [ -n "$overwrite" ] || shape+=(--resume True)
    run "$1" scripts.bench.sampling "${shape[@]}"
}

run_efficiency() {
    has_vllm efficiency || return 0
    local output="outputs/gpu_proof/efficiency" whole size budgets
    if [ -n "${DRY_RUN:-}" ]; then
        run "$1" scripts.bench.efficiency --budget_gib 24 --lengths 1024 2048 --output_dir "$RECORDS/efficiency"
        return
    fi
    if [ -f "$1" ] && [ -z "$overwrite" ]; then echo "$1: complete"; return; fi
    [ -z "$overwrite" ] || rm -rf "$output"
    # The device's whole memory, less the tenth that vLLM too leaves free.
    whole=$((memory * 9 / 10 / 1024))
    budgets=()
    for size in 24 72; do [ "$whole" -le "$size" ] || budgets+=("$size"); done
    run "$1" scripts.bench.efficiency --budget_gib "${budgets[@]}" "$whole" --lengths $EFFICIENCY_LENGTHS --output_dir "$output"
}

status=0
for part in "${parts[@]}"; do
    echo "== $part"
    code=0
    run_part "$part" || code=$?
    [ "$code" -eq 0 ] && continue
    [ "$code" -ne 2 ] || exit 2
    [ "$code" -ne 124 ] || echo "$part: stopped after $LIMIT s; start it again to go on" >&2
    [ "$code" -eq 124 ] || echo "$part: exit $code" >&2
    status=1
done
exit "$status"
