"""The closed list of the CUDA stack: what requirements.txt names, once a Python, in the versions of the CPU list."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# CUDA builds of torch and vLLM pin their own.
OWN_PINS = {"torch", "triton", "vllm", "apache-tvm-ffi"}
PEERS = {"mamba-ssm", "causal-conv1d"}  # built from source, after everything else


def read_list(name: str, python: str = "3.12") -> dict[str, str]:
    """Package -> version of a list, for x86-64 Linux under that Python; a package that stands twice fails."""
    found: dict[str, str] = {}
    environment = {
        "python_version": python, "python_full_version": f"{python}.4", "sys_platform": "linux", "os_name": "posix",
        "platform_machine": "x86_64", "platform_system": "Linux", "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }  # fmt: skip
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        package = canonicalize_name(requirement.name)
        assert package not in found, f"{name}: {package} stands twice for Python {python}"
        found[package] = str(requirement.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_holds_what_the_list_names(python: str):
    wanted, locked = read_list("requirements.txt", python), read_list("requirements-cuda.lock", python)
    assert {name: locked.get(name) for name in wanted if name not in PEERS} == {
        name: version for name, version in wanted.items() if name not in PEERS
    }, "run `make lock`"
    assert len(locked) > 150


def test_both_stacks_have_the_same_versions():
    cuda, cpu = read_list("requirements-cuda.lock"), read_list("requirements-cpu.txt")
    shared = cuda.keys() & cpu.keys()
    assert len(shared) > 130
    assert {name for name in shared if cuda[name] != cpu[name]} <= OWN_PINS


def test_uv_sync_is_kept_from_the_environment():
    """This project names no dependencies: `uv sync` took every package that setup.sh had installed out of .venv."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["managed"] is False


@pytest.mark.network
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_resolves_by_metadata(python: str, tmp_path: Path):
    """Nothing is installed: uv reads metadata, and for all but DeepSpeed wants wheels of that Python."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed (pip install uv)")
    listed = [
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if not re.match("mamba-ssm|causal", line)
    ]
    (tmp_path / "in.txt").write_text("\n".join(listed))
    command = [uv, "pip", "compile", "-q", "--python-version", python, "--python-platform", "x86_64-manylinux_2_31"]
    command += ["--only-binary", ":all:", "--no-binary", "deepspeed", "-c", str(ROOT / "requirements-cuda.lock")]
    done = subprocess.run(
        [*command, str(tmp_path / "in.txt")], capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
