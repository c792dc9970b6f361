"""Each fault that a first hour on a GPU machine meets, simulated: what the doctor calls it and what it advises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from promptcot_mamba.doctor import collectives, devices, kernels, software, system
from promptcot_mamba.doctor.finding import FAULT, NOTE, OK, WARNING, Finding, render
from promptcot_mamba.gpus import Gpu

ROOT = Path(__file__).resolve().parents[2]
H100 = Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", 80 << 30, (9, 0), "580.82.07")


def fake_torch(cuda: str | None, count: int) -> SimpleNamespace:
    """A torch built for that CUDA, which sees `count` devices."""
    return SimpleNamespace(
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count),
    )


def look(monkeypatch: pytest.MonkeyPatch, gpus: list[Gpu], present: bool, cuda: str | None, count: int) -> dict:
    monkeypatch.setattr(devices, "list_gpus", lambda: gpus)
    monkeypatch.setattr(devices, "has_nvidia_device", lambda: present)
    return {finding.name: finding for finding in devices.check_devices(fake_torch(cuda, count))}


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


def test_hidden_devices_are_told_by_the_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = look(monkeypatch, [], True, "13.0", 0)
    assert "CUDA_VISIBLE_DEVICES='' leaves no device" in found["driver"].found


def test_fewer_devices_in_torch_than_the_driver_shows(monkeypatch: pytest.MonkeyPatch):
    assert look(monkeypatch, [H100, H100], True, "13.0", 1)["torch.cuda"].status == WARNING


@pytest.mark.parametrize(
    ("gpu", "status", "words"),
    [
        (Gpu(0, "", "Tesla V100-SXM2-32GB", 32 << 30, (7, 0), "580.1"), WARNING, "kernels need 8.0"),
        (Gpu(0, "", "NVIDIA X900", 32 << 30, (10, 0), "580.1"), NOTE, "no MFU"),
        (Gpu(0, "", "NVIDIA GB10", None, (12, 1), "580.1"), NOTE, "the host's memory"),
    ],
)
def test_devices_out_of_the_ordinary(gpu: Gpu, status: str, words: str):
    finding = devices.describe_gpu(gpu)
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
    write_tool(tmp_path, "g++", "exit 0")
    if nvcc:
        write_tool(tmp_path, "nvcc", nvcc)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    finding = software.check_compilers("13.0")[1]
    assert finding.status == status
    assert words in finding.found + finding.mend


def test_a_missing_compiler_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = software.check_compilers(None)
    assert finding.status == FAULT
    assert "apt-get install g++" in finding.mend


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


def test_small_shared_memory_full_disks_and_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(system.shutil, "disk_usage", lambda path: (64 << 20, 0, 64 << 20))
    assert "--shm-size" in system.check_shared_memory(tmp_path).mend
    assert system.check_disk(tmp_path, cuda=True).status == WARNING
    monkeypatch.setattr(system.resource, "getrlimit", lambda which: (256, 8192))
    assert system.check_open_files().mend == "ulimit -n 4096"
    monkeypatch.setattr(system.resource, "getrlimit", lambda which: (256, 1024))
    assert "ulimit -n 1024, and ask for a hard limit of 4096" in system.check_open_files().mend


def test_slurm_without_cpus_for_its_tasks():
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "16", "SLURM_GPUS_ON_NODE": "8"}
    assert [finding.status for finding in system.check_slurm(job)] == [OK, WARNING]
    job["SLURM_CPUS_PER_TASK"] = "8"
    assert "SRUN_CPUS_PER_TASK" in system.check_slurm(job)[1].mend
    job["SRUN_CPUS_PER_TASK"] = "8"
    assert [finding.status for finding in system.check_slurm(job)] == [OK]
    assert system.check_slurm({}) == []


def test_every_op_agrees_here_and_a_wrong_one_is_found():
    assert {finding.status for finding in kernels.check_kernels()} == {OK}
    op, inputs = kernels.draw_cases()["gated_rms_norm"]

    def wrong(*, backend: str | None, **leaves: torch.Tensor) -> torch.Tensor:
        result = op(**leaves, backend=backend)
        return result if backend == "reference" else result * 1.1

    finding = kernels.check_op("gated_rms_norm", (wrong, inputs), "cpu")
    assert finding.status == FAULT
    assert "do not train here" in finding.mend

    def broken(*, backend: str | None, **leaves: torch.Tensor) -> torch.Tensor:
        if backend != "reference":
            raise RuntimeError("out of resource: shared memory, Required: 134144\nmore")
        return op(**leaves, backend=backend)

    finding = kernels.check_op("gated_rms_norm", (broken, inputs), "cpu")
    assert finding.status == FAULT
    assert "out of resource: shared memory, Required: 134144" in finding.found


def test_processes_reduce():
    finding = collectives.check_all_reduce(2, "gloo")
    assert finding.status == OK
    assert "2 processes" in finding.found


def test_the_table_puts_mends_below_their_findings():
    lines = render([Finding("a", OK, "fine"), Finding("bbb", FAULT, "gone", "bring it back")]).splitlines()
    assert lines == ["ok      a    fine", "FAULT   bbb  gone", "             -> bring it back"]


def test_the_program_ends_with_its_verdict(tmp_path: Path):
    command = [sys.executable, "-m", "scripts.doctor", "--quick", "True", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    rows = json.loads((tmp_path / "found.json").read_text())
    faults = [row for row in rows if row["status"] == FAULT]
    assert done.returncode == (1 if faults else 0), done.stdout
    assert ("not ready" in done.stdout) == bool(faults)
    assert {"driver", "packages", "vllm", "g++", "disk"} <= {row["name"] for row in rows}
