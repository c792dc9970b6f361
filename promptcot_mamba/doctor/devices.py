"""The driver, the devices, and whether this torch can use them."""

import os
from typing import Any

from promptcot_mamba.doctor.finding import FAULT, NOTE, OK, WARNING, Finding
from promptcot_mamba.gpus import Gpu, data_sheet, has_nvidia_device, list_gpus

# The oldest driver branch of each CUDA major version (NVIDIA, CUDA Toolkit release notes, minor version compatibility).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
KERNEL_FLOOR = (8, 0)  # bf16 and asynchronous copies; older devices have neither
GIB = 1 << 30


def driver_branch(version: str) -> int | None:
    """580 of `580.65.06`."""
    head = version.partition(".")[0]
    return int(head) if head.isdigit() else None


def check_driver(cuda_version: str | None, gpus: list[Gpu], present: bool) -> Finding:
    """Whether the driver is new enough for the CUDA that torch was built for (`torch.version.cuda`)."""
    if not present:
        if cuda_version:
            mend = "install NVIDIA's driver, or set up the CPU stack: bash scripts/setup.sh --cpu"
            return Finding("driver", FAULT, f"no NVIDIA driver, and torch is a build for CUDA {cuda_version}", mend)
        return Finding("driver", NOTE, "no NVIDIA device: everything runs on the CPU")
    if cuda_version is None:
        mend = "for its GPUs: bash scripts/setup.sh --cuda; for the CPU all the same: --use_cpu True in training"
        return Finding("driver", FAULT, "an NVIDIA driver runs here, but this torch is a CPU build", mend)
    if not gpus:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None:
            return Finding("driver", FAULT, f"CUDA_VISIBLE_DEVICES={hidden!r} leaves no device", "unset it")
        return Finding("driver", FAULT, "nvidia-smi names no device", "run nvidia-smi: its message says why")
    version = gpus[0].driver
    oldest = OLDEST_DRIVER.get(int(cuda_version.partition(".")[0]))
    branch = driver_branch(version)
    if oldest and branch is not None and branch < oldest:
        mend = f"install driver {oldest} or newer; CUDA {cuda_version} cannot start under an older one"
        return Finding("driver", FAULT, f"{version} is too old for torch's CUDA {cuda_version}", mend)
    return Finding("driver", OK, f"{version}, torch for CUDA {cuda_version}")


def check_cuda(torch: Any, gpus: list[Gpu]) -> Finding | None:
    """Whether torch sees what the driver sees; None without devices."""
    if not gpus or torch.version.cuda is None:
        return None
    if not torch.cuda.is_available():
        mend = "python -c 'import torch; torch.zeros(1).cuda()' says why; after an update of the driver, restart"
        return Finding("torch.cuda", FAULT, f"the driver shows {len(gpus)} devices, torch none", mend)
    count = torch.cuda.device_count()
    if count != len(gpus):
        mend = "see CUDA_VISIBLE_DEVICES and the container's device list"
        return Finding("torch.cuda", WARNING, f"the driver shows {len(gpus)} devices, torch {count}", mend)
    return Finding("torch.cuda", OK, f"{count} devices")


def describe_gpu(gpu: Gpu) -> Finding:
    """One device: its memory, capability, and what is known of its speed."""
    memory = f"{gpu.memory / GIB:.0f} GiB" if gpu.memory else "the host's memory"
    capability = "{}.{}".format(*gpu.capability) if gpu.capability else "unknown"
    found = f"{gpu.name}, {memory}, compute capability {capability}"
    name = f"gpu {gpu.index}"
    if gpu.capability and gpu.capability < KERNEL_FLOOR:
        floor = "{}.{}".format(*KERNEL_FLOOR)
        mend = f"the kernels need {floor} or newer (bf16); here only the plain torch form runs, slowly"
        return Finding(name, WARNING, found, mend)
    sheet = data_sheet(gpu.name)
    if sheet is None:
        return Finding(name, NOTE, f"{found}; its peak speed is not known here, so no MFU is shown")
    return Finding(name, OK, f"{found}, {sheet.bf16_tflops:,.0f} TFLOP/s bf16")


def check_devices(torch: Any) -> list[Finding]:
    """The driver, torch's view of it, and each device."""
    gpus = list_gpus()
    findings = [check_driver(torch.version.cuda, gpus, has_nvidia_device())]
    if cuda := check_cuda(torch, gpus):
        findings.append(cuda)
    findings += [describe_gpu(gpu) for gpu in gpus]
    if len({(gpu.name, gpu.memory) for gpu in gpus}) > 1:
        mend = (
            "CUDA_VISIBLE_DEVICES names those of one kind: together the slowest sets the pace, the smallest what fits"
        )
        findings.append(Finding("gpus", WARNING, "not all alike", mend))
    return findings
