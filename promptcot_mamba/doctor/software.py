"""Packages and compilers: what is pinned and what is here, what imports, what can be built."""

import importlib
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from promptcot_mamba.doctor.finding import FAULT, NOTE, OK, WARNING, Finding

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;#]+)", re.MULTILINE)
# Optional: faster or comparison kernels, built against torch. Training and sampling need neither.
PEERS = {"mamba_ssm": "mamba-ssm", "causal_conv1d": "causal-conv1d"}
PEER_LOSS = "its kernels cannot be chosen (--ops) nor compared with; training and sampling need neither"


def check_pins(cuda: bool) -> Finding:
    """Installed versions against the stack's list; peers are looked at apart."""
    path = ROOT / ("requirements.txt" if cuda else "requirements-cpu.txt")
    missing, other = [], []
    for name, version in PIN.findall(path.read_text(encoding="utf-8")):
        if name in PEERS.values():
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if installed.partition("+")[0] != version:
            other.append(f"{name} {installed} (pinned {version})")
    mend = f"bash scripts/setup.sh {'--cuda' if cuda else '--cpu'}"
    if missing:
        return Finding("packages", FAULT, f"missing: {', '.join(missing)}", mend)
    if other:
        return Finding("packages", WARNING, f"other versions: {', '.join(other)}", f"the pinned ones: {mend}")
    return Finding("packages", OK, f"as pinned in {path.name}")


def check_import(module: str, needed_for: str) -> Finding:
    """Whether a package that a program needs can be imported at all."""
    try:
        importlib.import_module(module)
    # A broken wheel fails in any way (a missing library, an undefined symbol); the finding is the report of it.
    except Exception as error:  # noqa: BLE001
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Finding(module, FAULT, f"does not import: {reason:.160}", _mend_import(reason, needed_for))
    return Finding(module, OK, f"imports ({needed_for})")


def _mend_import(reason: str, needed_for: str) -> str:
    """What to do about a package that does not import, beside what it is needed for."""
    if reason.startswith("No module named"):
        return f"needed for {needed_for}; {sys.executable} has it not: bash scripts/setup.sh, then . .venv/bin/activate"
    libraries = os.environ.get("LD_LIBRARY_PATH")
    if libraries and re.search(r"undefined symbol|cannot open shared object|version `", reason):
        return (
            f"needed for {needed_for}; LD_LIBRARY_PATH={libraries:.120} may bring another library: unset it, try again"
        )
    if "undefined symbol" in reason:
        return f"needed for {needed_for}; it was built against another torch: install the pinned ones (see packages)"
    return f"needed for {needed_for}"


def check_origin(file: Path) -> Finding | None:
    """A finding where torch's `file` comes from PYTHONPATH (`module load` sets it) or ~/.local: both go first."""
    places = {"unset PYTHONPATH": os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    places["export PYTHONNOUSERSITE=1"] = [site.getusersitepackages()]
    for mend, folders in places.items():
        if any(folder and file.is_relative_to(Path(folder).absolute()) for folder in folders):
            return Finding("environment", WARNING, f"torch comes from {file.parent}, not from {sys.prefix}", mend)
    return None


def check_peers() -> list[Finding]:
    """mamba-ssm and causal-conv1d: installed and importable, or what is lost."""
    findings = []
    for module, package in PEERS.items():
        mend = "bash scripts/setup.sh --peers builds it"
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            findings.append(Finding(package, NOTE, f"not installed: {PEER_LOSS}", mend))
            continue
        found = check_import(module, "--ops and the benchmarks")
        if found.status == OK:
            findings.append(Finding(package, OK, version))
        else:
            findings.append(Finding(package, WARNING, f"{version} {found.found}; {PEER_LOSS}", mend))
    return findings


def find_nvcc() -> str | None:
    """The CUDA compiler that torch builds with: of CUDA_HOME (or CUDA_PATH) where set, of PATH, of the usual place."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if not home and (path := shutil.which("nvcc")):
        return path
    under_home = Path(home or "/usr/local/cuda") / "bin/nvcc"
    return str(under_home) if under_home.is_file() else None


def nvcc_version(nvcc: str) -> str | None:
    """`13.0` of a compiler; None where it does not say."""
    try:
        printed = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"release (\d+\.\d+)", printed)
    return match[1] if match else None


def check_compilers(cuda_version: str | None) -> list[Finding]:
    """g++ with Python's headers (torch, Triton, DeepSpeed and our CPU kernels), nvcc for what is built on CUDA."""
    findings = []
    headers, python = Path(sysconfig.get_path("include")), f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not shutil.which("g++"):
        mend = "on Debian or Ubuntu: apt-get install g++"
        findings.append(Finding("g++", FAULT, "missing: Triton, DeepSpeed and vLLM compile with it", mend))
    elif not (headers / "Python.h").is_file():
        mend = f"on Debian or Ubuntu: apt-get install {python}-dev"
        found = f"{headers}/Python.h is missing: Triton and DeepSpeed compile against it"
        findings.append(Finding("g++", FAULT, found, mend))
    else:
        findings.append(Finding("g++", OK, shutil.which("g++") or ""))
    if cuda_version is None:
        return findings
    nvcc = find_nvcc()
    lost = "mamba-ssm, causal-conv1d and DeepSpeed's CUDA ops cannot be built; nothing else needs it"
    major = cuda_version.partition(".")[0]
    if nvcc is None:
        mend = f"install the CUDA {major} toolkit or set CUDA_HOME, then bash scripts/setup.sh --peers"
        home = os.environ.get("CUDA_HOME")
        findings.append(Finding("nvcc", NOTE, f"missing{f' under CUDA_HOME={home}' if home else ''}: {lost}", mend))
        return findings
    version = nvcc_version(nvcc)
    if version is None or version.partition(".")[0] != major:
        mend = f"torch is built for CUDA {cuda_version}: install that toolkit, or set CUDA_HOME to it"
        findings.append(Finding("nvcc", WARNING, f"{nvcc} is {version or 'silent about its version'}: {lost}", mend))
    else:
        findings.append(Finding("nvcc", OK, f"{version} ({nvcc})"))
    return findings


def check_ninja() -> Finding:
    """ninja, which torch's builder of extensions runs from PATH."""
    if path := shutil.which("ninja"):
        return Finding("ninja", OK, path)
    found = "not on PATH: DeepSpeed builds its CPU optimizer and CPU collectives with it"
    return Finding("ninja", WARNING, found, f"export PATH={Path(sys.executable).parent}:$PATH (what activate does)")
