#!/usr/bin/env bash
# Sample and score one model on every benchmark: data/<benchmark>_test.jsonl -> OUTPUT/<benchmark>.jsonl and its grades.
#
#   MODEL=outputs/sft/phase2 OUTPUT=outputs/eval/phase2 bash scripts/eval_all.sh [flags for infer_longcot.py, e.g. --n 2]
#
# Optional: NUM_GPUS (1), BENCHMARKS ("aime math500 ..."), DATA (data: folder of the problem files), CODE_TESTS (flags for
# LiveCodeBench, e.g. --sample_tests True). Problem files come from `python -m scripts.prepare_problems`. Running it again
# continues where it stopped: what is sampled is kept, verdicts on programs too. One engine samples all benchmarks.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${MODEL:?set MODEL to a checkpoint folder}"
: "${OUTPUT:?set OUTPUT to the folder for predictions and scores}"
NUM_GPUS=${NUM_GPUS:-1}
DATA=${DATA:-data}
BENCHMARKS=${BENCHMARKS:-aime math500 gsm8k olympiadbench humaneval humanevalplus livecodebench}
PYTHON=${PYTHON:-python}

score() { # benchmark, predictions
    case $1 in
    aime) "$PYTHON" calc_acc_aime.py --input_path "$2" ;;
    # shellcheck disable=SC2086  # CODE_TESTS is a list of flags
    livecodebench) "$PYTHON" calc_acc_lcb.py --input_path "$2" --cache_path "$2.verdicts.jsonl" ${CODE_TESTS:-} ;;
    *) "$PYTHON" -m scripts.calc_acc --benchmark "$1" --input_path "$2" ;;
    esac
}

# shellcheck disable=SC2086  # BENCHMARKS is a list
"$PYTHON" -m scripts.sample_all --benchmarks $BENCHMARKS --data_dir "$DATA" --output_dir "$OUTPUT" -- \
    --model_path "$MODEL" --n_gpus "$NUM_GPUS" "$@"
for benchmark in $BENCHMARKS; do
    echo "== $benchmark: grades of $MODEL"
    score "$benchmark" "$OUTPUT/$benchmark.jsonl"
done
