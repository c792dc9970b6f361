#!/usr/bin/env bash
# Every table of the paper: prepare the problems, sample all benchmarks with the paper's settings, grade, report.
#
#   bash scripts/reproduce_tables.sh --model_path MODEL [--math_model_path MODEL] [-- flags of infer_longcot.py]
#   bash scripts/reproduce_tables.sh --model s1.1-7b --model_path MODEL
#
#   --model NAME              any row of the tables: its template, thinking and settings are configs/models/NAME.yaml
#   --math_model_path MODEL   the maths-specialised model, for the table of that name
#   --benchmarks NAME ...     paper (default), all, or names of promptcot_mamba/benchmarks
#   --source_dir DIR          publishers' files at hand, for machines without internet (see scripts.prepare_problems)
#   --output DIR              predictions, grades and report (outputs/tables, with --quick outputs/tables_quick);
#                             the report shows every model graded there, those of earlier commands too
#   --num_gpus N              devices (1)
#   --quick                   two problems and one short sample each, to see the whole road in minutes; its
#                             LiveCodeBench is graded by the statements' samples and labelled so
#
# PYTHON=/path/to/python takes another interpreter than .venv's, VENV=/elsewhere another .venv.
# One start of the engine samples all benchmarks. Every hop resumes: run the same command again after whatever stopped it.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "error: $*" >&2; exit 2; }

row='' model='' math_model='' source_dir='' output='' num_gpus=1 quick='' benchmarks=() sampling=()
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=yes; shift; continue ;;
    --) shift; sampling=("$@"); break ;;
    --model | --model_path | --math_model_path | --source_dir | --output | --num_gpus | --benchmarks)
        [ $# -ge 2 ] || die "$1: expected a value" ;;
    -h | --help) sed -n '2,18p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) die "unknown flag $1; see --help" ;;
    esac
    case $1 in
    --benchmarks)
        shift
        while [ $# -gt 0 ] && [[ $1 != --* ]]; do benchmarks+=("$1"); shift; done
        [ ${#benchmarks[@]} -gt 0 ] || die "--benchmarks: expected names"
        continue ;;
    --model) row=${2,,} ;; # the recipes' names are the rows', in small letters
    --model_path) model=$2 ;;
    --math_model_path) math_model=$2 ;;
    --source_dir) source_dir=$2 ;;
    --output) output=$2 ;;
    --num_gpus) num_gpus=$2 ;;
    esac
    shift 2
done
[ -n "$model" ] || die "--model_path is required"
# A name that is no folder is the hub's or a server's, as for infer_longcot.py.
case $model in
/* | ./* | ../* | "~"*) [ -d "$model" ] || die "--model_path $model: no such folder" ;;
esac
[ ! -d "$model" ] || [ -f "$model/config.json" ] || [ -f "$model/params.json" ] ||
    die "--model_path $model: no config.json there; expected a Hugging Face checkpoint"
known() { (cd configs/models && ls -- *.yaml) | sed 's/\.yaml$//' | paste -sd ' '; }
[ -z "$row" ] || [ -f "configs/models/$row.yaml" ] || die "--model $row: no configs/models/$row.yaml; known: $(known)"
[ -z "$row" ] || [ -z "$math_model" ] || die "--math_model_path: is the second of the paper's own models; drop --model"
[ ${#benchmarks[@]} -gt 0 ] || benchmarks=(paper)
output=${output:-outputs/tables${quick:+_quick}}

PYTHON=${PYTHON:-${VENV:-.venv}/bin/python}
[ -x "$PYTHON" ] || die "$PYTHON is not there; run bash scripts/setup.sh first"
data=data
[ -z "$source_dir" ] || data=$output/problems
"$PYTHON" -m scripts.prepare_problems --benchmark "$(IFS=,; echo "${benchmarks[*]}")" --output_dir "$data" \
    ${source_dir:+--source_dir "$source_dir"}

code_tests=()
if [ -n "$quick" ]; then
    sampling=(--n 1 --max_len 128 --limit 2 "${sampling[@]}")
    code_tests=(--sample_tests True)
fi

evaluations=()
evaluate() { # name in the paper's tables, checkpoint, flags
    "$PYTHON" infer_longcot.py "${@:3}" --benchmark "${benchmarks[@]}" --data_dir "$data" --output_dir "$output/$1" \
        --model_path "$2" --n_gpus "$num_gpus" "${sampling[@]}"
    "$PYTHON" -m scripts.calc_acc --benchmark "${benchmarks[@]}" --input_path "$output/$1" --data_dir "$data" \
        "${code_tests[@]}"
    evaluations+=("$1=$output/$1")
}

case $row in # ours have one folder each, however they are asked for
'' | promptcot-mamba-7b) name=PromptCoT-Mamba-7B ;;
promptcot-mamba-math-7b) name=PromptCoT-Mamba-Math-7B ;;
*) name=$row ;;
esac
evaluate "$name" "$model" ${row:+--config "configs/models/$row.yaml"}
[ -z "$math_model" ] || evaluate PromptCoT-Mamba-Math-7B "$math_model"

for folder in "$output"/*/; do # models of earlier commands keep their rows
    [ -n "$(compgen -G "$folder*.metrics.json")" ] || continue
    name=$(basename "$folder")
    [[ " ${evaluations[*]} " == *" $name=$output/$name "* ]] || evaluations+=("$name=$output/$name")
done
results=docs/RESULTS.md
[ -z "$quick" ] || results=$output/RESULTS.md # two problems are no result
"$PYTHON" -m scripts.make_report --evaluation "${evaluations[@]}" --results "$results" --output "$output/report.html"
