#!/usr/bin/env bash
# Every table of the paper: prepare the problems, sample all benchmarks with the paper's settings, grade, report.
#
#   bash scripts/reproduce_tables.sh --model_path MODEL [--math_model_path MODEL]
#
#   --math_model_path MODEL   the maths-specialised model, for the table of that name
#   --source_dir DIR          publishers' files at hand, for machines without internet (see scripts.prepare_problems)
#   --output DIR              predictions, grades and report (outputs/tables)
#   --num_gpus N              devices (1)
#   --quick                   two problems and one short sample each, to see the whole road in minutes; its
#                             LiveCodeBench is graded by the statements' samples and labelled so
#
# Every hop resumes: run the same command again after whatever stopped it.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "error: $*" >&2; exit 2; }

model='' math_model='' source_dir='' output=outputs/tables num_gpus=1 quick=''
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=yes; shift; continue ;;
    --model_path | --math_model_path | --source_dir | --output | --num_gpus) [ $# -ge 2 ] || die "$1: expected a value" ;;
    -h | --help) sed -n '2,13p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) die "unknown flag $1; see --help" ;;
    esac
    case $1 in
    --model_path) model=$2 ;;
    --math_model_path) math_model=$2 ;;
    --source_dir) source_dir=$2 ;;
    --output) output=$2 ;;
    --num_gpus) num_gpus=$2 ;;
    esac
    shift 2
done
[ -n "$model" ] || die "--model_path is required"
[ -f "$model/config.json" ] || die "--model_path $model: no config.json there; expected a Hugging Face checkpoint"

export PYTHON=${PYTHON:-.venv/bin/python} NUM_GPUS=$num_gpus DATA=data CODE_TESTS=${CODE_TESTS:-}
export BENCHMARKS=${BENCHMARKS:-aime math500 olympiadbench gsm8k humaneval humanevalplus livecodebench}
[ -x "$PYTHON" ] || die "$PYTHON is not there; run bash scripts/setup.sh first"

if [ -n "$source_dir" ]; then
    DATA=$output/problems
    "$PYTHON" -m scripts.prepare_problems --benchmark all --source_dir "$source_dir" --output_dir "$DATA"
else
    "$PYTHON" -m scripts.prepare_problems --benchmark all --output_dir "$DATA"
fi

sampling=()
if [ -n "$quick" ]; then
    mkdir -p "$output/quick"
    for benchmark in $BENCHMARKS; do
        head -n 2 "$DATA/${benchmark}_test.jsonl" > "$output/quick/${benchmark}_test.jsonl"
        # AIME 2024 and 2025 share a file: two problems of each.
        [ "$benchmark" != aime ] || tail -n 2 "$DATA/aime_test.jsonl" >> "$output/quick/aime_test.jsonl"
    done
    DATA=$output/quick
    CODE_TESTS="--sample_tests True"
    sampling=(--n 1 --max_len 128)
fi

evaluations=()
evaluate() { # name in the paper's tables, checkpoint
    MODEL=$2 OUTPUT="$output/$1" bash scripts/eval_all.sh "${sampling[@]}"
    evaluations+=("$1=$output/$1")
}

evaluate PromptCoT-Mamba-7B "$model"
[ -z "$math_model" ] || evaluate PromptCoT-Mamba-Math-7B "$math_model"

results=docs/RESULTS.md
[ -z "$quick" ] || results=$output/RESULTS.md # two problems are no result
"$PYTHON" -m scripts.make_report --evaluation "${evaluations[@]}" --results "$results" --output "$output/report.html"
