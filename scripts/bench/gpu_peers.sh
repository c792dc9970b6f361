#!/usr/bin/env bash
# Installs the peers that the device proof measures beside ours, from a folder and with no network.
#
#   bash scripts/bench/gpu_peers.sh wheels          PYTHON=/path/to/python chooses the environment
#
# The folder, filled where there is a network (any machine with torch, no GPU needed; docs/gpu_proof.md):
#   mamba_ssm-2.3.1-py3-none-any.whl     its Triton kernels alone, which are all of Mamba-2
#   causal_conv1d-1.6.1.tar.gz           compiled here with nvcc, for this device's architecture only
#   liger_kernel-*.whl, deepspeed-*.whl, and what DeepSpeed needs that is missing here: hjson, pydantic, ...
set -euo pipefail
cd "$(dirname "$0")/../.."

[ $# -eq 1 ] || { echo "error: usage: bash scripts/bench/gpu_peers.sh FOLDER" >&2; exit 2; }
FOLDER=$1
PYTHON=${PYTHON:-python3}
[ -d "$FOLDER" ] || { echo "error: $FOLDER: no such folder" >&2; exit 2; }

pip_install() { "$PYTHON" -m pip install --quiet --no-index --no-deps --no-build-isolation "$@"; }
has() { "$PYTHON" -c "import $1" 2>/dev/null; }

shopt -s nullglob
wheels=("$FOLDER"/*.whl)
[ ${#wheels[@]} -eq 0 ] || pip_install "${wheels[@]}"

if ! has selective_scan_cuda && "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("mamba_ssm") is None)'; then
    # mamba-ssm 2.3.1 imports its Mamba-1 extension first of all; Mamba-2 never calls it.
    site=$("$PYTHON" -c 'import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec("mamba_ssm").origin).parent.parent)')
    echo '"""Stands for mamba-ssm'"'"'s Mamba-1 extension, which is not built here."""' >"$site/selective_scan_cuda.py"
fi

for source in "$FOLDER"/*.tar.gz; do
    name=$(basename "$source" .tar.gz)
    case "$name" in
        causal_conv1d-*)
            has causal_conv1d && continue
            build=$(mktemp -d)
            tar -xzf "$source" -C "$build"
            arch=${ARCH:-$("$PYTHON" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')}
            # Its setup.py names eight architectures: seven of them are left out, each with the flag before it.
            sed -i -E "/append\(\"-gencode\"\)/{N;/sm_$arch\"/!s/^( *).*\n.*\$/\1pass/}" "$build/$name/setup.py"
            grep -q "sm_$arch\"" "$build/$name/setup.py" || { echo "error: $name: knows no sm_$arch" >&2; exit 2; }
            CAUSAL_CONV1D_FORCE_BUILD=TRUE pip_install "$build/$name"
            rm -r "$build"
            ;;
        *) pip_install "$source" ;;
    esac
done

for module in mamba_ssm causal_conv1d liger_kernel deepspeed; do
    if has $module; then echo "$module: ready"; else echo "$module: missing, its rows will read 'not measured'"; fi
done
