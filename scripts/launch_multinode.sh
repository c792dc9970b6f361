#!/usr/bin/env bash
# Train on several nodes with DeepSpeed's hostfile launcher. The folders in the flags must be on storage that every
# node shares, and the nodes must have this repository and its .venv at the same path.
#
#   bash scripts/launch_multinode.sh HOSTFILE [flags of train.py]
#
# HOSTFILE has a line per node: `name slots=8`. Over ssh, start it once, on the first node. Without ssh between the
# nodes, start it on every node, with what tells it its place:
#
#   NO_SSH=1 NODE_RANK=1 MASTER_ADDR=node0 bash scripts/launch_multinode.sh HOSTFILE [flags]
#
# Optional: MASTER_ADDR (the first host of the file), MASTER_PORT (29500). Every process's fast network interface can be
# named with NCCL_SOCKET_IFNAME / GLOO_SOCKET_IFNAME.
set -euo pipefail
cd "$(dirname "$0")/.."
# The environment of scripts/setup.sh, where no other is active.
command -v deepspeed >/dev/null || export PATH="$PWD/.venv/bin:$PATH"

hostfile=${1:?usage: launch_multinode.sh HOSTFILE [flags of train.py]}
shift
if ! grep -qE '^[^#[:space:]]+[[:space:]]+slots=[0-9]+' "$hostfile"; then
    echo "error: $hostfile: no line of the form 'name slots=8'" >&2
    exit 2
fi
first_host=$(awk '!/^[[:space:]]*(#|$)/ {print $1; exit}' "$hostfile")

launch=(deepspeed --hostfile "$hostfile" --force_multi
    --master_addr "${MASTER_ADDR:-$first_host}" --master_port "${MASTER_PORT:-29500}")
if [ -n "${NO_SSH:-}" ]; then
    launch+=(--no_ssh --node_rank "${NODE_RANK:?set NODE_RANK (0, 1, ...) on every node}")
fi
exec "${launch[@]}" train.py "$@"
