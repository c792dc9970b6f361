"""Each fault that a first hour on a GPU machine meets, simulated: what the doctor calls it and what it advises."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from promptcot_mamba import gpus
from promptcot_mamba.doctor import devices, software, system
from promptcot_mamba.doctor.finding import FAULT, NOTE, OK, WARNING, Finding, render
from promptcot_mamba.gpus import Gpu

H100 = Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", 80 << 30, (9, 0), "580.82.07")


def fake_torch(cuda: str | None, count: int, reason: str = "no CUDA GPUs are available") -> SimpleNamespace:
    """A torch built for that CUDA, which sees `count` devices; without any, it says why."""

    def init() -> None:
        raise RuntimeError(reason)

    built_for = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # torch 2.13's for CUDA 13.0
    return SimpleNamespace(
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(
            is_available=lambda: count > 0, device_count=lambda: count, init=init, get_arch_list=lambda: built_for
        ),
    )


def look(
    monkeypatch: pytest.MonkeyPatch, gpus: list[Gpu], present: bool, cuda: str | None, count: int, reason: str = "?"
) -> dict:
    """The findings where the machine has those devices, by name."""
    monkeypatch.setattr(devices, "installed_gpus", lambda: gpus)
    monkeypatch.setattr(devices, "has_nvidia_device", lambda: present)
    return {finding.name: finding for finding in devices.check_devices(fake_torch(cuda, count, reason))}


@pytest.fixture(autouse=True)
def no_devices_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing of where the tests run: no driver file, no Slurm, no choice of devices, and a PATH with no tools."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(gpus, "DRIVER_FILE", tmp_path / "no driver")
    monkeypatch.setattr(devices, "DEVICE_FILE", tmp_path)
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "CUDA_HOME", "CUDA_PATH", "LD_LIBRARY_PATH", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)


def test_a_healthy_node(monkeypatch: pytest.MonkeyPatch):
    found = look(monkeypatch, [H100], True, "13.0", 1)
    assert {finding.status for finding in found.values()} == {OK}


def test_a_driver_too_old_for_this_cuda(monkeypatch: pytest.MonkeyPatch):
    old = Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", 80 << 30, (9, 0), "550.54.15")
    found = look(monkeypatch, [old], True, "13.0", 0)
    assert found["driver"].status == FAULT
    assert "550.54.15 is too old for torch's CUDA 13.0" in found["driver"].found
    assert "580 or newer" in found["driver"].mend
    assert found["torch.cuda"].status == FAULT


def test_a_cpu_build_of_torch_beside_a_gpu(monkeypatch: pytest.MonkeyPatch):
    found = look(monkeypatch, [H100], True, None, 0)
    assert found["driver"].status == FAULT
    assert "bash scripts/setup.sh --cuda" in found["driver"].mend


def test_a_cuda_build_without_a_driver(monkeypatch: pytest.MonkeyPatch):
    found = look(monkeypatch, [], False, "13.0", 0)
    assert found["driver"].status == FAULT
    assert "--cpu" in found["driver"].mend


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles", "3"])
def test_hidden_devices_are_told_by_the_variable(monkeypatch: pytest.MonkeyPatch, hidden: str):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    found = look(monkeypatch, [H100], True, "13.0", 0)
    assert found["driver"].status == OK
    assert found["devices"].found == f"CUDA_VISIBLE_DEVICES={hidden!r} leaves none"
    assert "torch.cuda" not in found


def test_an_old_driver_under_a_compatibility_package_is_none(monkeypatch: pytest.MonkeyPatch):
    """cuda-compat brings the user's half of a newer driver: torch says what counts."""
    old = Gpu(0, "GPU-1", "NVIDIA A100-SXM4-80GB", 80 << 30, (8, 0), "535.183.01")
    found = look(monkeypatch, [old], True, "13.0", 1)
    assert {finding.status for finding in found.values()} == {OK}
    assert "compatibility package" in found["driver"].found


def test_a_driver_too_old_to_answer_is_named_from_the_kernel_s_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """450 and older know no compute_cap, so nvidia-smi refuses the question."""
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  450.80.02  Wed Sep 23 01:13:39 UTC 2020\nGCC 9.3.0 \n"
    )
    monkeypatch.setattr(gpus, "DRIVER_FILE", file)
    found = look(monkeypatch, [], True, "13.0", 0)
    assert "450.80.02 is too old" in found["driver"].found
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs)\nGCC 13 \n"
    )
    assert gpus.kernel_driver() == "580.65.06"


@pytest.mark.parametrize(
    ("says", "mend"),
    [
        (
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.65",
            "restart the machine",
        ),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "modprobe nvidia"),
        ("Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.", "dmesg | grep -i xid"),
        ("No devices were found", "--gpus-per-node"),
        ("Failed to initialize NVML: Unknown Error", "start it again"),
    ],
)
def test_what_nvidia_smi_says_is_passed_on_with_a_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, mend: str
):
    write_tool(tmp_path / "bin", "nvidia-smi", f'echo "{says}"; exit 9')
    finding = look(monkeypatch, [], True, "13.0", 0)["driver"]
    assert finding.status == FAULT
    assert says.splitlines()[0] in finding.found
    assert mend in finding.mend


def test_mig_without_an_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_tool(tmp_path / "bin", "nvidia-smi", "echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-aaaa)'")
    assert "nvidia-smi mig -cgi" in look(monkeypatch, [], True, "13.0", 0)["driver"].mend


def test_a_container_without_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """/proc shows the host's driver in every container; the devices come with --gpus."""
    monkeypatch.setattr(devices, "DEVICE_FILE", tmp_path / "nvidiactl")
    assert "docker run --gpus all" in look(monkeypatch, [], True, "13.0", 0)["driver"].mend


def test_a_container_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch):
    """NVIDIA_DRIVER_CAPABILITIES=compute: torch runs, and sampling would find no memory to plan with."""
    finding = look(monkeypatch, [], True, "13.0", 1)["driver"]
    assert finding.found == "torch sees its devices, but nvidia-smi: not found"
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in finding.mend


def test_a_login_node_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_tool(tmp_path / "bin", "srun", "exit 0")
    finding = look(monkeypatch, [], False, "13.0", 0)["driver"]
    assert finding.status == WARNING
    assert "srun --gpus=1" in finding.mend
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert look(monkeypatch, [], False, "13.0", 0)["driver"].status == FAULT


UNEXPECTED = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that "
    "might have already set an error? "
)


@pytest.mark.parametrize(
    ("reason", "words", "mend"),
    [
        (UNEXPECTED + "Error 802: system not yet initialized", "torch none: Error 802", "nvidia-fabricmanager"),
        (UNEXPECTED + "Error 803: system has unsupported display driver / cuda driver combination", "803", "restart"),
        (UNEXPECTED + "Error 804: forward compatibility was attempted on non supported HW", "804", "LD_LIBRARY_PATH"),
        ("CUDA-capable device(s) is/are busy or unavailable", "busy", "exclusive mode"),
        ("something new", "something new", "tells more"),
    ],
)
def test_torch_s_reason_is_passed_on_with_a_mend(monkeypatch: pytest.MonkeyPatch, reason: str, words: str, mend: str):
    finding = look(monkeypatch, [H100], True, "13.0", 0, reason)["torch.cuda"]
    assert finding.status == FAULT
    assert words in finding.found
    assert mend in finding.mend


def test_fewer_devices_in_torch_than_the_driver_shows(monkeypatch: pytest.MonkeyPatch):
    assert look(monkeypatch, [H100, H100], True, "13.0", 1)["torch.cuda"].status == WARNING


@pytest.mark.parametrize(
    ("gpu", "status", "words"),
    [
        (Gpu(0, "", "Tesla V100-SXM2-32GB", 32 << 30, (7, 0), "580.1"), FAULT, "this torch is built for sm_75"),
        (Gpu(0, "", "Tesla T4", 15 << 30, (7, 5), "580.1"), WARNING, "kernels need 8.0"),
        (Gpu(0, "", "NVIDIA X900", 32 << 30, (10, 0), "580.1"), NOTE, "no MFU"),
        (Gpu(0, "", "NVIDIA GB10", None, (12, 1), "580.1"), NOTE, "the host's memory"),
    ],
)
def test_devices_out_of_the_ordinary(gpu: Gpu, status: str, words: str):
    finding = devices.describe_gpu(gpu, fake_torch("13.0", 1).cuda.get_arch_list())
    assert finding.status == status
    assert words in finding.found + finding.mend


def test_cards_of_two_kinds_are_pointed_out(monkeypatch: pytest.MonkeyPatch):
    other = Gpu(1, "GPU-2", "NVIDIA RTX A6000", 48 << 30, (8, 6), "580.82.07")
    found = look(monkeypatch, [H100, other], True, "13.0", 2)
    assert found["gpus"].status == WARNING
    assert "the smallest what fits" in found["gpus"].mend
    assert "gpus" not in look(monkeypatch, [H100, H100], True, "13.0", 2)


def write_tool(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("nvcc", "status", "words"),
    [
        ("echo 'Cuda compilation tools, release 13.0, V13.0.48'", OK, "13.0"),
        ("echo 'Cuda compilation tools, release 12.4, V12.4.131'", WARNING, "torch is built for CUDA 13.0"),
        ("exit 1", WARNING, "silent about its version"),
        (None, NOTE, "nothing else needs it"),
    ],
)
def test_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvcc: str | None, status: str, words: str):
    write_tool(tmp_path / "bin", "g++", "exit 0")
    if nvcc:
        write_tool(tmp_path / "bin", "nvcc", nvcc)
    else:
        monkeypatch.setenv("CUDA_HOME", "/nowhere")
    finding = software.check_compilers("13.0")[1]
    assert finding.status == status
    assert words in finding.found + finding.mend


def test_cuda_home_goes_before_the_path_as_in_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_tool(tmp_path / "bin", "g++", "exit 0")
    write_tool(tmp_path / "bin", "nvcc", "echo release 12.4, V12.4.131")
    (tmp_path / "cuda/bin").mkdir(parents=True)
    write_tool(tmp_path / "cuda/bin", "nvcc", "echo release 13.0, V13.0.48")
    assert software.check_compilers("13.0")[1].status == WARNING
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert software.check_compilers("13.0")[1].status == OK


def test_missing_compilers_headers_and_builders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (finding,) = software.check_compilers(None)
    assert finding.status == FAULT
    assert "apt-get install g++" in finding.mend
    assert software.check_ninja().status == WARNING
    write_tool(tmp_path / "bin", "g++", "exit 0")
    monkeypatch.setattr(software.sysconfig, "get_path", lambda name: str(tmp_path))
    (finding,) = software.check_compilers(None)
    assert finding.status == FAULT
    assert f"apt-get install python3.{sys.version_info.minor}-dev" in finding.mend


def test_packages_are_compared_with_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(software, "ROOT", tmp_path)
    (tmp_path / "requirements-cpu.txt").write_text("numpy==0.1\nno-such-thing==1.0\n# pytest==1\n")
    missing = software.check_pins(cuda=False)
    assert missing.status == FAULT
    assert missing.found == "missing: no-such-thing"
    (tmp_path / "requirements-cpu.txt").write_text("numpy==0.1\n")
    other = software.check_pins(cuda=False)
    assert other.status == WARNING
    assert "(pinned 0.1)" in other.found


def test_a_package_that_does_not_import_is_told_by_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "half_built_wheel.py").write_text("raise OSError('undefined symbol: _ZN3c10')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = software.check_import("half_built_wheel", "sampling")
    assert finding.status == FAULT
    assert "undefined symbol" in finding.found
    assert "built against another torch" in finding.mend
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/cuda-12/lib64")
    finding = software.check_import("half_built_wheel", "sampling")
    assert "LD_LIBRARY_PATH=/usr/local/cuda-12/lib64 may bring another library" in finding.mend


def test_a_torch_from_outside_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "site/torch/__init__.py"
    assert software.check_origin(file) is None
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path / 'site'}")
    assert software.check_origin(file).mend == "unset PYTHONPATH"


MOUNTS = "/dev/sda1 / ext4 rw 0 0\nfiler:/home /home nfs4 rw 0 0\ntmpfs /home/me/\\040x tmpfs rw 0 0\n"


def test_caches_that_cannot_be_written_or_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    places = {name: str(tmp_path / name) for name in system.CACHES}
    assert system.check_caches(places, True, MOUNTS).status == OK
    moved = system.check_caches(places | {"TRITON_CACHE_DIR": "", "TRITON_HOME": str(tmp_path / "t")}, True, MOUNTS)
    assert str(tmp_path / "t/.triton/cache") in moved.found
    shared = system.check_caches(places, True, f"/dev/sda1 / ext4 rw 0 0\nfiler:/x {tmp_path} lustre rw 0 0\n")
    assert shared.status == WARNING
    assert "is on lustre" in shared.found
    assert "export TRITON_CACHE_DIR=/tmp/" in shared.mend
    monkeypatch.setattr(system.os, "access", lambda place, mode: False)  # root may write everywhere
    closed = system.check_caches(places, True, MOUNTS)
    assert closed.status == FAULT
    assert "TRITON_CACHE_DIR cannot be written, nor 4 more" in closed.found
    assert system.check_caches(places, False, MOUNTS).status == WARNING
    assert system.file_system(Path("/home/me"), MOUNTS) == "nfs4"
    assert system.file_system(Path("/home/me/ x/y"), MOUNTS) == "tmpfs"
    assert system.file_system(Path("/homes"), MOUNTS) == "ext4"


def test_a_user_without_a_home_is_told_where_caches_can_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`docker run --user 1234`: no HOME, and no entry in the system's list of users."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setitem(sys.modules, "pwd", SimpleNamespace(getpwuid=lambda uid: {}[uid]))
    found = system.check_caches({"HF_HOME": str(tmp_path)}, True, MOUNTS)
    assert found.status == FAULT
    assert found.found == "~/.triton/cache cannot be written, nor 3 more"
    assert "export TRITON_CACHE_DIR=/tmp/$USER/triton_cache_dir" in found.mend


def test_caches_below_a_home_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """HOME=/root of an image that runs as another user. Root may look everywhere: the refusal is played."""
    home = tmp_path / "root"
    home.mkdir()
    stat = os.stat

    def refuse(path: object, *args: object, **kwargs: object) -> os.stat_result:
        if Path(str(path)).is_relative_to(home) and Path(str(path)) != home:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(system.os, "access", lambda place, mode: Path(place) != home)
    monkeypatch.setenv("HOME", str(home))
    found = system.check_caches({}, True, MOUNTS)
    assert (found.status, found.found) == (FAULT, f"{home}/.triton/cache cannot be written, nor 4 more")


def test_small_shared_memory_full_disks_and_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(system.shutil, "disk_usage", lambda path: (64 << 20, 0, 64 << 20))
    assert "--shm-size" in system.check_shared_memory(tmp_path).mend
    assert system.check_disk(tmp_path, cuda=True).status == WARNING
    monkeypatch.setattr(system.resource, "getrlimit", lambda which: (256, 8192))
    assert system.check_open_files().mend == "ulimit -n 4096"
    monkeypatch.setattr(system.resource, "getrlimit", lambda which: (256, 1024))
    assert "ulimit -n 1024, and ask for a hard limit of 4096" in system.check_open_files().mend


def test_bytecode_that_is_not_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(system.sys, "dont_write_bytecode", True)
    assert "unset PYTHONDONTWRITEBYTECODE" in system.check_bytecode().mend
    monkeypatch.setattr(system.sys, "dont_write_bytecode", False)
    monkeypatch.setattr(system.sys, "pycache_prefix", "/somewhere")
    assert (system.check_bytecode().status, system.check_bytecode().found) == (OK, "kept in /somewhere")


def test_slurm_without_cpus_for_its_tasks():
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "16", "SLURM_GPUS_ON_NODE": "8"}
    assert [finding.status for finding in system.check_slurm(job)] == [OK, WARNING]
    job["SLURM_CPUS_PER_TASK"] = "8"
    assert "SRUN_CPUS_PER_TASK" in system.check_slurm(job)[1].mend
    job["SRUN_CPUS_PER_TASK"] = "8"
    assert [finding.status for finding in system.check_slurm(job)] == [OK]
    assert system.check_slurm({}) == []


def test_the_table_puts_mends_below_their_findings():
    lines = render([Finding("a", OK, "fine"), Finding("bbb", FAULT, "gone", "bring it back")]).splitlines()
    assert lines == ["ok      a    fine", "FAULT   bbb  gone", "             -> bring it back"]
