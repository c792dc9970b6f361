#!/usr/bin/env bash
# Train on several nodes with DeepSpeed's hostfile launcher. The folders in the flags must be on storage that every
# node shares, and the nodes must have this repository and its .venv at the same path.
#
#   bash scripts/cluster/launch_multinode.sh HOSTFILE [flags of train.py]
#
# HOSTFILE has a line per node: `name slots=8`. Over ssh (and pdsh), start it once, on the first node. Without ssh
# between the nodes, start it on every node, with what tells it its place:
#
#   NO_SSH=1 NODE_RANK=1 MASTER_ADDR=node0 bash scripts/cluster/launch_multinode.sh HOSTFILE [flags]
#
# Optional: MASTER_ADDR (the first host of the file), MASTER_PORT (29500). Every process's fast network interface can be
# named with NCCL_SOCKET_IFNAME / GLOO_SOCKET_IFNAME. A node that vanishes ends the run (docs/many_nodes.md).
set -euo pipefail
cd "$(dirname "$0")/../.."
# The environment of scripts/setup.sh, where no other is active.
command -v deepspeed >/dev/null || export PATH="$PWD/.venv/bin:$PATH"

die() {
    echo "error: $1" >&2
    exit 2
}

[ $# -gt 0 ] || die "usage: bash scripts/cluster/launch_multinode.sh HOSTFILE [flags of train.py]"
hostfile=$1
shift
[ -r "$hostfile" ] || die "$hostfile: not there, or not readable"
# A name and its slots a line; comments and empty lines between.
fault=$(awk '/^[[:space:]]*(#|$)/ { next }
    !/^[[:space:]]*[^#[:space:]]+[[:space:]]+slots=[1-9][0-9]*[[:space:]]*(#.*)?$/ {
        print FNR ": expected \"name slots=8\", found \"" $0 "\""; exit }
    seen[$1]++ { print FNR ": " $1 " is there twice"; exit }
    { count++ }
    END { if (!count) print " no line of the form \"name slots=8\"" }' "$hostfile" | head -n 1)
[ -z "$fault" ] || die "$hostfile:$fault"
mapfile -t hosts < <(awk '!/^[[:space:]]*(#|$)/ {print $1}' "$hostfile")

# Asks a node, without a password and without waiting for long; prints what is wrong with it, in one line.
ask_node() {
    local here=$PWD python answer
    python=$(command -v python)
    answer=$(ssh -o BatchMode=yes -o ConnectTimeout=10 "$1" \
        "cd '$here' && test -f train.py && test -x '$python' && echo ready" 2>&1) && [[ "$answer" = *ready ]] && return
    case $answer in
        "") echo "$1: no repository in $here, or no $python; the same paths are needed on every node" ;;
        *) echo "$1: $(tail -n 1 <<<"$answer" | tr -d '\r') (\`ssh -o BatchMode=yes $1 true\` must work)" ;;
    esac
}

launch=(deepspeed --hostfile "$hostfile" --force_multi
    --master_addr "${MASTER_ADDR:-${hosts[0]}}" --master_port "${MASTER_PORT:-29500}")
if [ -n "${NO_SSH:-}" ]; then
    [ -n "${NODE_RANK:-}" ] || die "set NODE_RANK (0, 1, ...) on every node"
    launch+=(--no_ssh --node_rank "$NODE_RANK")
else
    command -v pdsh >/dev/null ||
        die "pdsh is missing, which reaches the nodes: apt-get install pdsh, or see NO_SSH in $0"
    fault=$(for host in "${hosts[@]}"; do ask_node "$host" & done; wait)
    [ -z "$fault" ] || die "$(head -n 1 <<<"$fault")"
    # A node that vanishes is let go in a minute, where ssh would wait for two hours. Of two options ssh takes the first.
    export PDSH_SSH_ARGS_APPEND="${PDSH_SSH_ARGS_APPEND:-} -o ConnectTimeout=10 -o ServerAliveInterval=15 \
-o ServerAliveCountMax=4"
fi
exec "${launch[@]}" train.py "$@"
