#!/usr/bin/env bash
# One `vllm serve` a node under Slurm, each on all GPUs of its node, until the job ends; prints the --base_url list.
#
#   MODEL=/models/PromptCoT-Mamba-7B sbatch --nodes 4 --gpus-per-node 8 --time 12:00:00 scripts/cluster/serve_slurm.sh
#
# Optional: PORT (8000), MAX_LEN (65536; the context is 4,096 more), GPUS (those of a node), TENSOR_PARALLEL (1),
# MAX_NUM_SEQS (200: the chains of a 7B Mamba-2 that 80 GB hold; vLLM does not start where their states do not fit, and
# `infer_longcot.py --dry_run True` says how many do), VLLM_FLAGS. Where a node is lost the others serve on, and
# infer_longcot.py goes on with them.
#SBATCH --no-kill
set -euo pipefail

[ -n "${MODEL:-}" ] || { echo "error: set MODEL to a checkpoint folder that every node sees" >&2; exit 2; }
PORT=${PORT:-8000}
GPUS=${GPUS:-${SLURM_GPUS_ON_NODE:-8}}
TENSOR_PARALLEL=${TENSOR_PARALLEL:-1}
CONTEXT=$((${MAX_LEN:-65536} + 4096))
if [ $((GPUS % TENSOR_PARALLEL)) -ne 0 ]; then
    echo "error: TENSOR_PARALLEL=$TENSOR_PARALLEL does not divide a node's $GPUS GPUs" >&2
    exit 2
fi
# The environment of scripts/setup.sh, where no other is active.
command -v vllm >/dev/null || export PATH="$PWD/.venv/bin:$PATH"

urls=()
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do urls+=("http://$node:$PORT"); done
echo "--base_url ${urls[*]}"

# A task has the CPUs it asks for, of the job's: since Slurm 22.05 it is one if nothing is said.
cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
# Of a job that this one was submitted from: its cores and its memory, in which srun would refuse to start.
unset "${!SLURM_CPU_BIND@}" "${!SLURM_MEM_@}"
# shellcheck disable=SC2086  # VLLM_FLAGS is a list of flags
srun --no-kill --kill-on-bad-exit=0 --wait=0 --export=ALL --ntasks-per-node 1 --cpus-per-task "$cpus" \
    vllm serve "$MODEL" --port "$PORT" --max-model-len "$CONTEXT" \
    --data-parallel-size $((GPUS / TENSOR_PARALLEL)) --tensor-parallel-size "$TENSOR_PARALLEL" \
    --max-num-seqs "${MAX_NUM_SEQS:-200}" --mamba-ssm-cache-dtype float32 --generation-config vllm \
    --no-enable-prefix-caching --stream-interval 64 ${VLLM_FLAGS:-}
