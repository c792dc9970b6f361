"""scripts/setup.sh: what it refuses, and what it leaves alone, without installing anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = (
    *("bash", "sed", "awk", "cat", "cut", "grep", "sha256sum", "dirname"),
    *("du", "tail", "rm", "mkdir", "cp", "g++", "head", "ls", "nproc", "tr", "sort", "chmod"),
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the script, its lists, a PATH of only what it needs (`bin/`), and a disk with 99 GB free."""
    for name in ("scripts/setup.sh", "requirements.txt", "requirements-cpu.txt", "requirements-cuda.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or "/bin/true")
    write_tool(tmp_path, "df", f"printf 'Filesystem 1K Used Available\\n/dev/x 9 9 {99 << 20} 9%% /\\n'")
    return tmp_path


def write_tool(clone: Path, name: str, body: str) -> None:
    path = clone / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def fake_python(clone: Path, version: str, pip: str = "echo no route to host >&2; exit 1", libc: str = "2.36") -> None:
    """A `python3` that knows its version and makes environments in which `pip` ends as told.

    What pip was called with goes to pip.log, in front of it what DeepSpeed's setup was told of nvcc.
    """
    inner = clone / "inner-python"
    (clone / "include").mkdir(exist_ok=True)
    (clone / "include/Python.h").touch()
    facts = f"*sysconfig*) echo {clone}/include ;; *libc_ver*) echo {libc} ;; *) echo {version} ;;"
    answer = f'case "$2" in {facts} esac'
    inner.write_text(
        f'#!/usr/bin/env bash\ncase "$1 $2 $3" in -c*) {answer} ;; *--version) exit 0 ;;'
        f'*) echo "nvcc-ignored=${{DS_IGNORE_CUDA_DETECTION:-}} $*" >>"{clone}/pip.log"; {pip} ;; esac\n',
        encoding="utf-8",
    )
    inner.chmod(0o755)
    venv = '"${@: -1}"'
    make = f'rm -rf {venv}; mkdir -p {venv}/bin && cp "{inner}" {venv}/bin/python && >{venv}/pyvenv.cfg'
    write_tool(clone, "python3", f'case "$1" in -c) {answer} ;; -m) {make} ;; esac')


def run_setup(clone: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "scripts/setup.sh", *flags],
        cwd=clone,
        env={"PATH": str(clone / "bin"), "HOME": str(clone), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_wrong_python_is_named(clone: Path):
    fake_python(clone, "3.9")
    result = run_setup(clone, "--cpu")
    assert result.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 found (python3 is 3.9)" in result.stderr
    assert not (clone / ".venv").exists()


def test_a_chosen_python_that_is_too_old_is_refused(clone: Path):
    fake_python(clone, "3.10")
    result = run_setup(clone, "--cpu", PYTHON="python3")
    assert result.returncode == 1
    assert "PYTHON=python3 is Python 3.10; 3.11, 3.12 or 3.13 is needed" in result.stderr


def test_a_missing_compiler_is_named_with_its_package(clone: Path):
    fake_python(clone, "3.12")
    (clone / "bin" / "g++").unlink()
    result = run_setup(clone, "--cpu")
    assert result.returncode == 1
    assert "g++ is missing" in result.stderr
    assert "apt-get install g++" in result.stderr


@pytest.mark.parametrize(("libc", "enough"), [("2.28", False), ("2.30", False), ("", False), ("2.31", True)])
def test_an_old_libc_is_named(clone: Path, libc: str, enough: bool):
    """RHEL 8's: pip would begin to build one of vLLM's packages, and end for want of Rust."""
    fake_python(clone, "3.12", libc=libc)
    result = run_setup(clone, "--cpu")
    assert ("older than 2.31, which the wheels want" in result.stderr) != enough
    assert (clone / ".venv").exists() == enough


def test_missing_headers_are_named_with_their_package(clone: Path):
    """Ubuntu's python3.12 comes without: the first Triton kernel would end in gcc's message, hours later."""
    fake_python(clone, "3.12")
    (clone / "include/Python.h").unlink()
    result = run_setup(clone, "--cpu")
    assert result.returncode == 1
    assert "include/Python.h is missing" in result.stderr
    assert "apt-get install python3.12-dev" in result.stderr
    assert not (clone / ".venv").exists()


def test_a_full_disk_is_refused_before_anything_is_made(clone: Path):
    fake_python(clone, "3.12")
    write_tool(clone, "df", "printf 'Filesystem 1K Used Available\\n/dev/x 9 9 3145728 9%% /\\n'")
    result = run_setup(clone, "--cpu")
    assert result.returncode == 1
    assert "only 3 GB free on this disk, 8 GB are needed" in result.stderr
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(("gigabytes", "place"), [(2, "{clone}/.venv/tmp"), (20, "/tmp")])
def test_a_small_tmp_is_not_what_pip_fills(clone: Path, gigabytes: int, place: str):
    fake_python(clone, "3.12", pip="printenv TMPDIR >>pip.tmp || echo /tmp >>pip.tmp; [ -d $(tail -n 1 pip.tmp) ]")
    blocks = f"case $2 in */tmp) echo /dev/x 9 9 {gigabytes << 20} ;; *) echo /dev/y 9 9 {99 << 20} ;; esac"
    write_tool(clone, "df", f"echo Filesystem 1K Used Available; {blocks}")
    (clone / "bin/printenv").symlink_to(shutil.which("printenv"))
    result = run_setup(clone, "--cpu")
    assert result.returncode == 0, result.stderr
    assert set((clone / "pip.tmp").read_text().split()) == {place.format(clone=clone)}
    assert not (clone / ".venv/tmp").exists()


def test_no_network_is_said_and_leaves_no_stamp(clone: Path):
    fake_python(clone, "3.12")
    result = run_setup(clone, "--cpu")
    assert result.returncode == 1
    assert "no route to host" in result.stderr
    assert "is there a network" in result.stderr
    assert not (clone / ".venv" / ".setup-stamp").exists()


def test_an_unknown_flag_is_refused(clone: Path):
    result = run_setup(clone, "--gpu")
    assert result.returncode == 1
    assert "unknown flag '--gpu'" in result.stderr


GCC_TOO_NEW = "error: #error -- unsupported GNU version! gcc versions later than 15 are not supported!"


def cuda_machine(
    clone: Path,
    nvcc: str | None = "13.0",
    failing: str = "no such package",
    archs: str = "9.0",
    driver: str = "580.82.07",
) -> None:
    """A machine with a driver, a CUDA torch, an `nvcc` of that release, and a pip that fails on `failing`."""
    pip = f'case "$*" in *"{failing}"*) echo "{GCC_TOO_NEW}"; echo gcc died; exit 1 ;; esac'
    fake_python(clone, "3.12", pip=pip)
    inner = clone / "inner-python"
    inner.write_text(
        inner.read_text().replace("*sysconfig*", "*torch.version.cuda*) echo 13.0 ;; *sysconfig*"), encoding="utf-8"
    )
    write_tool(clone, "nvidia-smi", f'case "$1" in *driver*) echo {driver} ;; *) echo {archs} ;; esac')
    if nvcc:
        write_nvcc(clone / "bin/nvcc", nvcc)


def write_nvcc(path: Path, release: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    answer = f'echo "Cuda tools, release {release}, V{release}.1"'
    path.write_text(f'#!/usr/bin/env bash\ncase "$1" in --version) {answer} ;; *) echo "$*" ;; esac\n')
    path.chmod(0o755)


def pip_calls(clone: Path) -> list[str]:
    return [line for line in (clone / "pip.log").read_text(encoding="utf-8").splitlines() if "pip install" in line]


def test_without_nvcc_everything_but_the_peers_is_installed(clone: Path):
    cuda_machine(clone, nvcc=None)
    result = run_setup(clone, CUDA_HOME="/nowhere")
    assert result.returncode == 0, result.stderr
    assert "nvcc is missing under CUDA_HOME=/nowhere, so mamba-ssm and causal-conv1d are not" in result.stderr
    assert "training and sampling need neither" in result.stderr
    assert "bash scripts/setup.sh --peers" in result.stderr
    assert not [call for call in pip_calls(clone) if "mamba-ssm" in call]
    assert (clone / ".venv/.setup-stamp").is_file()


def test_an_nvcc_of_another_major_builds_nothing_and_says_which_is_wanted(clone: Path):
    cuda_machine(clone, nvcc="12.4")
    result = run_setup(clone)
    assert result.returncode == 0, result.stderr
    assert "nvcc is of CUDA 12.4, torch of CUDA 13.0" in result.stderr
    assert not [call for call in pip_calls(clone) if "mamba-ssm" in call]


def test_a_peer_that_does_not_build_costs_one_line_and_the_other_is_tried(clone: Path):
    cuda_machine(clone, failing="mamba-ssm==")
    result = run_setup(clone)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if "not built" in line]
    assert len(lines) == 1
    assert lines[0].startswith("setup: mamba-ssm==")
    assert re.search(r"causal-conv1d==\S+: built in \d+ s", result.stderr)
    assert "not built: unsupported GNU version! gcc versions later than 15" in lines[0]
    assert "gcc died" in (clone / ".venv/peers/mamba-ssm.log").read_text()
    wheels = next(index for index, call in enumerate(pip_calls(clone)) if " -r " in call)
    assert all("mamba-ssm" not in call for call in pip_calls(clone)[:wheels])


def test_peers_are_built_for_this_machine_s_devices_alone(clone: Path):
    cuda_machine(clone, archs="8.9")
    assert run_setup(clone).returncode == 0
    flags = ["-O3", "-gencode", "arch=compute_75,code=sm_75", "-gencode=arch=compute_80,code=sm_80", "unit.cu"]
    standing_in = subprocess.run([clone / ".venv/peers/nvcc", *flags], capture_output=True, text=True, check=True)
    assert standing_in.stdout.split() == ["-O3", "unit.cu", "-gencode", "arch=compute_89,code=sm_89"]


def test_words_that_nvidia_smi_says_in_failing_are_no_architectures(clone: Path):
    cuda_machine(clone)
    write_tool(clone, "nvidia-smi", "echo 'NVIDIA-SMI has failed because it could not reach the driver.'; exit 9")
    result = run_setup(clone, "--cuda")
    assert result.returncode == 0, result.stderr
    assert "no device says which architecture to build for" in result.stderr
    assert not [call for call in pip_calls(clone) if "mamba-ssm" in call]


def test_the_toolkit_that_cuda_home_names_is_the_one_that_torch_builds_with(clone: Path):
    """Ubuntu's own nvcc of CUDA 12 is first on PATH, and the user has done what the message said: set CUDA_HOME."""
    cuda_machine(clone, nvcc="12.4")
    write_nvcc(clone / "cuda-13/bin/nvcc", "13.0")
    result = run_setup(clone, CUDA_HOME=str(clone / "cuda-13"))
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"built in \d+ s", result.stderr)) == 2
    assert f'exec "{clone}/cuda-13/bin/nvcc"' in (clone / ".venv/peers/nvcc").read_text()


def test_deepspeed_is_not_told_to_look_for_nvcc(clone: Path):
    """Its setup ends in MissingCUDAException on a machine with a GPU and without nvcc."""
    cuda_machine(clone, nvcc=None)
    assert run_setup(clone, CUDA_HOME="/nowhere").returncode == 0
    assert all(call.startswith("nvcc-ignored=1 ") for call in pip_calls(clone))


def test_an_old_driver_is_named_before_anything_is_fetched(clone: Path):
    cuda_machine(clone, driver="550.54.15")
    lines = run_setup(clone).stderr.splitlines()
    assert lines[0].startswith("setup: driver 550.54.15 is older than CUDA 13 wants (580)")
    assert "cuda-compat-13-0" in lines[0]


def holds(clone: Path, version: str) -> Path:
    """Give .venv a torch of that version; its place."""
    torch = clone / f".venv/lib/python3.12/site-packages/torch-{version}.dist-info"
    torch.mkdir(parents=True)
    return torch


def test_the_other_stack_replaces_the_one_that_is_there(clone: Path):
    """To pip `2.13.0+cpu` satisfies `torch==2.13.0`: installed over it, the CUDA stack would keep the CPU's torch."""
    cuda_machine(clone, nvcc=None)
    assert run_setup(clone, "--cpu").returncode == 0
    torch = holds(clone, "2.13.0+cpu")
    result = run_setup(clone, "--cuda", CUDA_HOME="/nowhere")
    assert result.returncode == 0, result.stderr
    assert "holds the cpu stack, which the cuda stack replaces" in result.stderr
    assert not torch.exists()


def test_without_a_network_the_stack_that_is_there_stays(clone: Path):
    cuda_machine(clone, failing="pip download")
    assert run_setup(clone, "--cpu").returncode == 0
    torch = holds(clone, "2.13.0+cpu")
    result = run_setup(clone, "--cuda")
    assert result.returncode == 1
    assert "so the cpu stack in .venv stays" in result.stderr
    assert torch.exists()


def test_without_a_flag_the_stack_that_is_there_stays(clone: Path):
    """`setup.sh --cpu` on a machine whose driver is too old, then quickstart.sh, which calls it without a flag."""
    cuda_machine(clone)
    assert run_setup(clone, "--cpu").returncode == 0
    holds(clone, "2.13.0+cpu")
    result = run_setup(clone)
    assert result.returncode == 0
    assert "is ready (cpu)" in result.stderr
    assert "setup.sh --cuda replaces it" in result.stderr


def test_a_folder_that_is_no_virtual_environment_is_left_alone(clone: Path):
    fake_python(clone, "3.12")
    (clone / "conda/bin").mkdir(parents=True)
    write_tool(clone, "../conda/bin/python", "echo 3.10")
    result = run_setup(clone, "--cpu", VENV="conda")
    assert result.returncode == 1
    assert "nothing is removed from it: set VENV to another folder" in result.stderr
    assert (clone / "conda/bin/python").exists()


def test_an_environment_without_pip_gets_one(clone: Path):
    """As uv makes them, and as Debian leaves them where python3-venv was missing."""
    fake_python(clone, "3.12", pip="exit 0")
    inner = clone / "inner-python"
    inner.write_text(inner.read_text().replace("*--version) exit 0", "*--version) exit 1"), encoding="utf-8")
    assert run_setup(clone, "--cpu").returncode == 0
    assert "-m ensurepip" in (clone / "pip.log").read_text()
    inner.write_text(inner.read_text().replace("exit 0 ;; esac", "exit 1 ;; esac"), encoding="utf-8")
    result = run_setup(clone, "--cpu", VENV="other")
    assert result.returncode == 1
    assert "other has no pip and ensurepip fails" in result.stderr


def test_a_login_node_is_told_of_the_other_stack(clone: Path):
    fake_python(clone, "3.12", pip="exit 0")
    write_tool(clone, "sbatch", "exit 0")
    result = run_setup(clone)
    assert result.returncode == 0, result.stderr
    assert "no NVIDIA driver on this node, so the CPU stack; for nodes with GPUs, from here: bash" in result.stderr


def test_peers_can_be_left_out_and_added_later(clone: Path):
    cuda_machine(clone)
    assert run_setup(clone, "--cuda", "--without-peers").returncode == 0
    assert not [call for call in pip_calls(clone) if "mamba-ssm" in call]
    later = run_setup(clone, "--peers")
    assert later.returncode == 0, later.stderr
    assert len([call for call in pip_calls(clone) if "mamba-ssm" in call or "causal-conv1d" in call]) == 2


def test_an_installed_stack_on_a_machine_that_is_not_ready_is_not_called_ready(clone: Path):
    cuda_machine(clone, failing="scripts.doctor")
    result = run_setup(clone)
    assert result.returncode == 1
    assert (
        result.stderr.strip().splitlines()[-1].startswith("setup: the packages are installed, but this machine is not")
    )


def test_a_second_run_does_nothing_until_a_list_changes(clone: Path):
    fake_python(clone, "3.12", pip="exit 0")
    first = run_setup(clone, "--cpu")
    assert first.returncode == 0, first.stderr
    calls = (clone / "pip.log").read_text(encoding="utf-8")
    again = run_setup(clone, "--cpu")
    assert again.returncode == 0
    assert "is ready (cpu)" in again.stderr
    assert (clone / "pip.log").read_text(encoding="utf-8") == calls
    with (clone / "requirements-cpu.txt").open("a", encoding="utf-8") as file:
        file.write("another==1.0\n")
    run_setup(clone, "--cpu")
    assert len((clone / "pip.log").read_text(encoding="utf-8")) > len(calls)


def test_torch_comes_as_a_cpu_build_only_and_its_index_is_asked_for_nothing_else(clone: Path):
    fake_python(clone, "3.12", pip='case "$*" in *torch==*) case "$*" in *--index-url*) exit 0 ;; esac; exit 1 ;; esac')
    result = run_setup(clone, "--cpu")
    assert result.returncode == 0, result.stderr
    calls = [call for call in (clone / "pip.log").read_text(encoding="utf-8").splitlines() if "pip install" in call]
    torch_calls = [call for call in calls if "torch==" in call]
    assert torch_calls
    assert all("+cpu" in call for call in torch_calls)
    assert ["--index-url" in call for call in calls] == ["+cpu" in call and "--no-index" not in call for call in calls]


@pytest.mark.parametrize("script", ["test.sh", "quickstart.sh"])
@pytest.mark.parametrize("forbidden", ["1", ""])
def test_bytecode_is_kept_apart_where_it_may_not_stand_beside_sources(tmp_path: Path, script: str, forbidden: str):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / script, tmp_path / "scripts")
    (tmp_path / "scripts/setup.sh").touch()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(
        '#!/bin/sh\necho "forbidden=$PYTHONDONTWRITEBYTECODE at=$PYTHONPYCACHEPREFIX"\n', encoding="utf-8"
    )
    (tmp_path / ".venv/bin/python").chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": forbidden}
    done = subprocess.run(
        ["bash", f"scripts/{script}"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    place = f"{tmp_path}/.venv/bytecode" if forbidden else ""
    assert f"forbidden= at={place}\n" in done.stdout, done.stderr
