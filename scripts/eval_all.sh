#!/usr/bin/env bash
# Sample and score one model on every benchmark: data/<benchmark>_test.jsonl -> OUTPUT/<benchmark>.jsonl and its grades.
#
#   MODEL=outputs/sft/phase2 OUTPUT=outputs/eval/phase2 bash scripts/eval_all.sh [flags for infer_longcot.py, e.g. --n 2]
#
# Optional: NUM_GPUS (1), BENCHMARKS ("aime math500 ..."), CODE_TESTS (flags for calc_acc_lcb.py). Problem files come
# from `python -m scripts.prepare_problems`. Running it again continues where it stopped: what is sampled is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${MODEL:?set MODEL to a checkpoint folder}"
: "${OUTPUT:?set OUTPUT to the folder for predictions and scores}"
NUM_GPUS=${NUM_GPUS:-1}
BENCHMARKS=${BENCHMARKS:-aime math500 gsm8k olympiadbench humaneval humanevalplus livecodebench}

score() { # benchmark, predictions
    case $1 in
    aime) python calc_acc_aime.py --input_path "$2" ;;
    # shellcheck disable=SC2086  # CODE_TESTS is a list of flags
    humaneval | humanevalplus | livecodebench) python calc_acc_lcb.py --input_path "$2" ${CODE_TESTS:-} ;;
    *) python -m scripts.calc_acc --benchmark "$1" --input_path "$2" ;;
    esac
}

for benchmark in $BENCHMARKS; do
    predictions=$OUTPUT/$benchmark.jsonl
    echo "== $benchmark: $MODEL -> $predictions"
    python infer_longcot.py --config "configs/eval/$benchmark.yaml" --model_path "$MODEL" --output_path "$predictions" \
        --n_gpus "$NUM_GPUS" "$@"
    score "$benchmark" "$predictions"
done
