#!/usr/bin/env bash
# Self-play: a model learns from its own chains whose answers can be checked, round after round.
#
#   MODEL=outputs/sft/phase2 MATHS=problems_maths.jsonl CODE=problems_code.jsonl OUTPUT=outputs/selfplay ROUNDS=2 \
#       bash scripts/selfplay.sh [flags for every round's train.py, e.g. --beta 0.05]
#
# Each round samples the problems, grades the samples, makes preferences of them and trains on these from the weights
# that the round before left; OUTPUT/round_N/model is its checkpoint. MATHS or CODE alone will do; what their rows hold
# is in docs/selfplay.md.
#
# Optional: ROUNDS (1), BY (gold, or majority for maths whose answers nobody knows), SEED (0), the recipes
# SAMPLE_CONFIG, PAIRS_CONFIG and TRAIN_CONFIG, NUM_GPUS (8; or CUDA_VISIBLE_DEVICES), and the commands that start each
# program where you run it: SAMPLER, MATHS_GRADER, CODE_GRADER, LAUNCHER (of train.py). Running it again goes on where
# it was: a hop that is done is skipped, one that was killed resumes, and one whose settings, files or model changed
# since is refused. Where it runs may change: LAUNCHER, the number of devices, servers; a step of training has as many
# rows as before where --gradient_accumulation_steps makes up for the devices.
set -euo pipefail
cd "$(dirname "$0")/.."
# The environment of scripts/setup.sh, where no other is active.
command -v deepspeed >/dev/null || export PATH="$PWD/.venv/bin:$PATH"

# shellcheck source=scripts/cluster/one_node.sh
. scripts/cluster/one_node.sh
need MODEL "the folder of the model to start from"
need OUTPUT "the folder for all rounds"
[ -n "${MATHS:-}${CODE:-}" ] || { echo "error: set MATHS or CODE, or both, to a problem file" >&2; exit 2; }
ROUNDS=${ROUNDS:-1} BY=${BY:-gold} SEED=${SEED:-0}
SAMPLE_CONFIG=${SAMPLE_CONFIG:-configs/selfplay_sample.yaml}
PAIRS_CONFIG=${PAIRS_CONFIG:-configs/selfplay_pairs.yaml}
TRAIN_CONFIG=${TRAIN_CONFIG:-configs/selfplay.yaml}
SAMPLER=${SAMPLER:-python infer_longcot.py --n_gpus $NUM_GPUS}
MATHS_GRADER=${MATHS_GRADER:-python calc_acc_aime.py}
CODE_GRADER=${CODE_GRADER:-python calc_acc_lcb.py}

[[ "$ROUNDS" =~ ^[1-9][0-9]*$ ]] || { echo "error: ROUNDS=$ROUNDS: expected a whole number from 1" >&2; exit 2; }
[[ "$SEED" =~ ^[0-9]+$ ]] || { echo "error: SEED=$SEED: expected a whole number" >&2; exit 2; }
case "$BY" in gold | majority) ;; *) echo "error: BY=$BY: expected gold or majority" >&2; exit 2 ;; esac
[ "$BY" = gold ] || [ -z "${CODE:-}" ] ||
    { echo "error: BY=majority goes with MATHS alone; programs are judged by their tests" >&2; exit 2; }
for file in ${MATHS:+"$MATHS"} ${CODE:+"$CODE"} "$SAMPLE_CONFIG" "$PAIRS_CONFIG" "$TRAIN_CONFIG"; do
    [ -f "$file" ] || { echo "error: $file: no such file" >&2; exit 2; }
done

fingerprint() { # folder of a model: a word that tells its config and weights from others; of a name of the hub, none
    [ ! -d "$1" ] || python - "$1" <<'PYTHON'
import sys
from promptcot_mamba.checkpoint import read_checkpoint
from promptcot_mamba.errors import InputError
try:
    print(read_checkpoint(sys.argv[1], "MODEL").fingerprint())
except InputError as error:
    sys.exit(f"error: {error}")
PYTHON
}

row_flags() { # a sampler's command: its flags that can change a row, not those of where it runs
    local word ours="" kept=""
    for word in $1; do
        case $word in
        *infer_longcot.py) ours=1 && continue ;;
        --n_gpus* | --tensor_parallel_size* | --max_num_seqs* | --base_url* | --concurrency*) kept="" ;;
        --request_timeout* | --patience* | --ca_file* | --save_partial*) kept="" ;;
        --*) kept=$ours ;;
        esac
        [ -z "$kept" ] || printf ' %s' "$word"
    done
}

share_flags() { # without the flags that share a step's rows out among devices
    sed -E 's/ --(gradient_accumulation_steps|per_device_train_batch_size)[ =][^ ]+//g'
}

# Name, the command that starts it, what its rows come from up to a -- (files; a word behind =), flags: done once, as
# long as none of these but the first command changes.
hop() {
    local name=$1 start=$2 stamp="$folder/done/$1" from="" wanted
    shift 2
    while [ "$1" != -- ]; do
        case $1 in
        =*) from+=" [${1#=}]" ;;
        *) from+=" [$1 $(sha256sum <"$1" | cut -c1-16)]" ;;
        esac
        shift
    done
    shift
    wanted="$*$from"
    if [ -f "$stamp" ]; then
        if [ "$(share_flags <"$stamp")" = "$(share_flags <<<"$wanted")" ]; then
            echo "== round $round, $name: done before"
            return
        fi
        echo "error: $stamp: round $round was made by other settings or from other files or weights than are asked for" \
            "now; set another OUTPUT, or remove $folder and the rounds after it" >&2
        exit 2
    fi
    echo "== round $round, $name"
    echo "\$ ${start:+$start }$*"
    # shellcheck disable=SC2086 # commands are several words each
    $start "$@"
    mkdir -p "$folder/done"
    printf '%s\n' "$wanted" >"$stamp.part"
    mv "$stamp.part" "$stamp"
}

model=$MODEL
for ((round = 1; round <= ROUNDS; round++)); do
    folder=$OUTPUT/round_$round
    samples=() graded=()
    weights="=$(fingerprint "$model")" || exit 2
    for family in ${MATHS:+maths} ${CODE:+code}; do
        problems=${MATHS:-} grader=$MATHS_GRADER grading=()
        if [ "$family" = code ]; then
            problems=$CODE grader=$CODE_GRADER grading=(--cache_path "$folder/verdicts.jsonl")
        fi
        # Every round draws other samples.
        hop "sample_$family" "$SAMPLER" "$SAMPLE_CONFIG" "$problems" "$weights" "=$(row_flags "$SAMPLER")" -- \
            --config "$SAMPLE_CONFIG" --model_path "$model" --data_path "$problems" \
            --output_path "$folder/$family.jsonl" --seed $((SEED + round))
        if [ "$BY" = gold ]; then # shellcheck disable=SC2086 # a grader's own flags say what is right
            hop "grade_$family" "" "$folder/$family.jsonl" -- $grader --input_path "$folder/$family.jsonl" \
                --expected_runs 1 "${grading[@]}"
            graded+=("$folder/$family.grades.jsonl")
        fi
        samples+=("$folder/$family.jsonl")
    done
    hop prefer "" "$PAIRS_CONFIG" "${samples[@]}" "${graded[@]}" -- \
        python -m scripts.make_preferences --config "$PAIRS_CONFIG" --by "$BY" \
        --input_path "${samples[@]}" --output_path "$folder/pairs.jsonl" --sft_path "$folder/right.jsonl" \
        --seed $((SEED + round))
    hop train "$LAUNCHER" "$TRAIN_CONFIG" "$folder/pairs.jsonl" "$weights" -- \
        train.py --config "$TRAIN_CONFIG" --model_name_or_path "$model" \
        --data_path "$folder/pairs.jsonl" --output_dir "$folder/model" "$@"
    model=$folder/model
done
echo "== done: $model"
