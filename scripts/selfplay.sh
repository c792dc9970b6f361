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
# it was: a hop that is done is skipped, one that was killed resumes, and one whose command or files changed since is
# refused.
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

hop() { # name, the files it reads up to a --, command: done once, as long as none of them changes
    local name=$1 stamp="$folder/done/$1" files="" wanted
    shift
    while [ "$1" != -- ]; do
        files+=" [$1 $(sha256sum <"$1" | cut -c1-16)]"
        shift
    done
    shift
    wanted="$*$files"
    if [ -f "$stamp" ]; then
        if [ "$(cat "$stamp")" = "$wanted" ]; then
            echo "== round $round, $name: done before"
            return
        fi
        echo "error: $stamp: round $round was made by another command or from other files than are asked for now; set" \
            "another OUTPUT, or remove $folder and the rounds after it" >&2
        exit 2
    fi
    echo "== round $round, $name"
    echo "\$ $*"
    "$@"
    mkdir -p "$folder/done"
    printf '%s\n' "$wanted" >"$stamp.part"
    mv "$stamp.part" "$stamp"
}

model=$MODEL
for ((round = 1; round <= ROUNDS; round++)); do
    folder=$OUTPUT/round_$round
    samples=() graded=()
    for family in ${MATHS:+maths} ${CODE:+code}; do
        problems=${MATHS:-} grader=$MATHS_GRADER grading=()
        if [ "$family" = code ]; then
            problems=$CODE grader=$CODE_GRADER grading=(--cache_path "$folder/verdicts.jsonl")
        fi
        # Commands are several words each; every round draws other samples.
        # shellcheck disable=SC2086
        hop "sample_$family" "$SAMPLE_CONFIG" "$problems" -- $SAMPLER --config "$SAMPLE_CONFIG" --model_path "$model" \
            --data_path "$problems" --output_path "$folder/$family.jsonl" --seed $((SEED + round))
        if [ "$BY" = gold ]; then # shellcheck disable=SC2086
            hop "grade_$family" "$folder/$family.jsonl" -- $grader --input_path "$folder/$family.jsonl" \
                --expected_runs 1 "${grading[@]}"
            graded+=("$folder/$family.grades.jsonl")
        fi
        samples+=("$folder/$family.jsonl")
    done
    hop prefer "$PAIRS_CONFIG" "${samples[@]}" "${graded[@]}" -- \
        python -m scripts.make_preferences --config "$PAIRS_CONFIG" --by "$BY" \
        --input_path "${samples[@]}" --output_path "$folder/pairs.jsonl" --sft_path "$folder/right.jsonl" \
        --seed $((SEED + round))
    # shellcheck disable=SC2086
    hop train "$TRAIN_CONFIG" "$folder/pairs.jsonl" -- \
        $LAUNCHER train.py --config "$TRAIN_CONFIG" --model_name_or_path "$model" \
        --data_path "$folder/pairs.jsonl" --output_dir "$folder/model" "$@"
    model=$folder/model
done
echo "== done: $model"
