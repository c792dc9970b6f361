#!/usr/bin/env bash
# Two-phase supervised fine-tuning: phase 2 starts from the weights that phase 1 leaves.
#
#   MODEL=/models/Mamba-Codestral-7B PHASE1_DATA=/data/phase1 PHASE2_DATA=/data/phase2 OUTPUT=outputs/sft \
#       bash scripts/sft_two_phase.sh [flags for both phases, e.g. --report_to wandb]
#
# Optional: NUM_GPUS (8; or CUDA_VISIBLE_DEVICES), PHASE1_CONFIG and PHASE2_CONFIG (recipes, several separated by
# spaces), LAUNCHER (a command that starts train.py on your cluster). Running it again continues where it was killed: a
# finished phase is skipped, an unfinished one resumes from its last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."
# The environment of scripts/setup.sh, where no other is active.
command -v deepspeed >/dev/null || export PATH="$PWD/.venv/bin:$PATH"

# shellcheck source=scripts/cluster/one_node.sh
. scripts/cluster/one_node.sh
need MODEL "the folder of the base model"
need PHASE1_DATA "the data of phase 1"
need PHASE2_DATA "the data of phase 2 (with the synthesized problems)"
need OUTPUT "the folder for both phases"
PHASE1_CONFIG=${PHASE1_CONFIG:-configs/sft_phase1.yaml}
PHASE2_CONFIG=${PHASE2_CONFIG:-configs/sft_phase2.yaml}

run_phase() { # name, recipes, model, data, further flags
    local name=$1 recipes=$2 model=$3 data=$4
    shift 4
    local configs=()
    for recipe in $recipes; do configs+=(--config "$recipe"); done
    echo "== $name: $model + $data -> $OUTPUT/$name"
    # shellcheck disable=SC2086  # LAUNCHER is a command with its flags
    $LAUNCHER train.py "${configs[@]}" --model_name_or_path "$model" --data_path $data \
        --output_dir "$OUTPUT/$name" "$@"
}

run_phase phase1 "$PHASE1_CONFIG" "$MODEL" "$PHASE1_DATA" "$@"
run_phase phase2 "$PHASE2_CONFIG" "$OUTPUT/phase1" "$PHASE2_DATA" "$@"
echo "== done: $OUTPUT/phase2"
