# Sourced by the roads that train on this machine: sets NUM_GPUS and LAUNCHER, the command that starts train.py, and
# `need NAME WHAT`, which ends with 2 where the variable is not set.
#
# NUM_GPUS: as given, as many as CUDA_VISIBLE_DEVICES names, or 8. Beside --num_gpus DeepSpeed's launcher passes over that
# variable and takes the machine's first devices; without the flag it takes what the variable names.
need() { [ -n "${!1:-}" ] || { echo "error: set $1 to $2" >&2; exit 2; }; }

if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    named=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
    [ "${NUM_GPUS:-$named}" -eq "$named" ] || {
        echo "error: NUM_GPUS=$NUM_GPUS, but CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES names $named; leave one out" >&2
        exit 2
    }
    NUM_GPUS=$named LAUNCHER=${LAUNCHER:-deepspeed}
fi
NUM_GPUS=${NUM_GPUS:-8}
LAUNCHER=${LAUNCHER:-deepspeed --num_gpus=$NUM_GPUS}
