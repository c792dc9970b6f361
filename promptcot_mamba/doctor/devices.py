"""The driver, the devices, and whether this torch can use them."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from promptcot_mamba.doctor.finding import FAULT, NOTE, OK, WARNING, Finding
from promptcot_mamba.gpus import (
    Gpu,
    data_sheet,
    has_nvidia_device,
    installed_gpus,
    kernel_driver,
    nvidia_smi_says,
    run_nvidia_smi,
    visible_gpus,
)

# The oldest driver branch of each CUDA major version (NVIDIA, CUDA Toolkit release notes, minor version compatibility).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
KERNEL_FLOOR = (8, 0)  # bf16 and asynchronous copies; older devices have neither
GIB = 1 << 30
DEVICE_FILE = Path("/dev/nvidiactl")  # a container that was given no GPU sees the driver in /proc, and not this
# What a failing nvidia-smi says, and what mends it.
SMI_MENDS = {
    "version mismatch": "the driver was updated under a running kernel: restart the machine",
    "couldn't communicate": "the kernel's module is not loaded: modprobe nvidia, or install the driver for this kernel",
    "unknown error": "a container that lost its devices (the host's systemd was reloaded): start it again",
    "lost": "a card does not answer (dmesg | grep -i xid): restart the machine",
    "no devices": "this job or container was given none: ask for one (Slurm: --gpus-per-node, docker: --gpus all)",
}
# What torch says when CUDA does not start (numbers are cudaError_t's), and what mends it.
CUDA_MENDS = {
    "802": "start nvidia-fabricmanager, of the driver's own version: without it a machine with NVSwitch has no CUDA",
    "803": "libcuda.so is of another driver than the kernel's module: restart after an update; take a folder of "
    "cuda-compat that is older than the driver out of LD_LIBRARY_PATH",
    "804": "cuda-compat serves data-centre cards only: take its folder out of LD_LIBRARY_PATH and update the driver",
    "too old": "see driver",
    "busy": "another process holds the device, in exclusive mode: nvidia-smi names it",
}


def driver_branch(version: str) -> int | None:
    """580 of `580.65.06`."""
    head = version.partition(".")[0]
    return int(head) if head.isdigit() else None


def check_driver(torch: Any, gpus: list[Gpu], present: bool) -> Finding:
    """Whether a driver runs, and is new enough for the CUDA that torch was built for (`torch.version.cuda`).

    `gpus` are all of the machine, hidden ones too.
    """
    cuda_version, works = torch.version.cuda, torch.cuda.is_available()
    if cuda_version is None:
        if not present:
            return Finding("driver", NOTE, "no NVIDIA device: everything runs on the CPU")
        mend = "for its GPUs: bash scripts/setup.sh --cuda; for the CPU all the same: --use_cpu True in training"
        return Finding("driver", FAULT, "an NVIDIA driver runs here, but this torch is a CPU build", mend)
    if works and not gpus:
        mend = "sampling asks it for memory: in a container, NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        return Finding("driver", FAULT, f"torch sees its devices, but nvidia-smi: {nvidia_smi_says():.120}", mend)
    if not present:
        return _no_driver(cuda_version)
    version = gpus[0].driver if gpus else kernel_driver()
    oldest = OLDEST_DRIVER.get(int(cuda_version.partition(".")[0]))
    branch = driver_branch(version or "")
    if oldest and branch is not None and branch < oldest:
        if works:
            return Finding("driver", OK, f"{version}, made to run CUDA {cuda_version} by a compatibility package")
        mend = (
            f"install driver {oldest} or newer; or, for data-centre cards, the package cuda-compat-"
            f"{cuda_version.replace('.', '-')}, with LD_LIBRARY_PATH=/usr/local/cuda-{cuda_version}/compat"
        )
        return Finding("driver", FAULT, f"{version} is too old for torch's CUDA {cuda_version}", mend)
    if not gpus:
        return _no_device()
    return Finding("driver", OK, f"{version}, torch for CUDA {cuda_version}")


def _no_driver(cuda_version: str) -> Finding:
    """A CUDA build of torch without a driver: on a cluster's login node nothing is wrong."""
    found = f"no NVIDIA driver, and torch is a build for CUDA {cuda_version}"
    if shutil.which("srun") and "SLURM_JOB_ID" not in os.environ:
        mend = "a login node? where the GPUs are: srun --gpus=1 .venv/bin/python -m scripts.doctor"
        return Finding("driver", WARNING, found, mend)
    mend = "install NVIDIA's driver, or set up the CPU stack: bash scripts/setup.sh --cpu"
    return Finding("driver", FAULT, found, mend)


def _no_device() -> Finding:
    """A driver that shows no device."""
    if "UUID: GPU-" in (run_nvidia_smi("-L") or ""):
        mend = "make one: sudo nvidia-smi mig -cgi PROFILE -C; or give MIG up: sudo nvidia-smi -mig 0"
        return Finding("driver", FAULT, "devices in MIG mode without an instance", mend)
    if not DEVICE_FILE.exists():
        mend = "start the container with the GPUs: docker run --gpus all, apptainer exec --nv"
        return Finding("driver", FAULT, "the kernel has an NVIDIA driver, but no device is given to this system", mend)
    says = nvidia_smi_says()
    mend = next((mend for words, mend in SMI_MENDS.items() if words in says.lower()), "run nvidia-smi")
    return Finding("driver", FAULT, f"nvidia-smi: {says:.160}", mend)


def check_cuda(torch: Any, gpus: list[Gpu]) -> Finding | None:
    """Whether torch sees the devices that the driver gives this process; None without devices."""
    if not gpus or torch.version.cuda is None:
        return None
    if not torch.cuda.is_available():
        reason = _why_not(torch)
        mend = "python -c 'import torch; torch.zeros(1).cuda()' tells more; after an update of the driver, restart"
        mend = next((mend for words, mend in CUDA_MENDS.items() if words in reason), mend)
        return Finding("torch.cuda", FAULT, f"the driver shows {len(gpus)}, torch none: {reason:.120}", mend)
    count = torch.cuda.device_count()
    if count != len(gpus):
        mend = "see CUDA_VISIBLE_DEVICES and the container's device list"
        return Finding("torch.cuda", WARNING, f"the driver shows {len(gpus)} devices, torch {count}", mend)
    return Finding("torch.cuda", OK, f"{count} devices")


def _why_not(torch: Any) -> str:
    """CUDA's own reason for not starting."""
    try:
        torch.cuda.init()
    # Whatever it is: the reason is what is asked for.
    except Exception as error:  # noqa: BLE001
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        # Before the reason stands a question of torch's own, which nobody here can answer.
        return re.sub(r".*already set an error\? ", "", reason)
    return "no reason given"


def describe_gpu(gpu: Gpu, architectures: list[str]) -> Finding:
    """One device: its memory, capability, and what is known of its speed.

    `architectures` are those that torch holds kernels for, `sm_90` (or `compute_90`: also for newer ones).
    """
    memory = f"{gpu.memory / GIB:.0f} GiB" if gpu.memory else "the host's memory"
    capability = "{}.{}".format(*gpu.capability) if gpu.capability else "unknown"
    found = f"{gpu.name}, {memory}, compute capability {capability}"
    name = f"gpu {gpu.index}"
    if gpu.capability and architectures and not _is_built_for(gpu.capability, architectures):
        mend = f"this torch is built for {' '.join(architectures)}: hide the card (CUDA_VISIBLE_DEVICES)"
        return Finding(name, FAULT, found, mend)
    if gpu.capability and gpu.capability < KERNEL_FLOOR:
        floor = "{}.{}".format(*KERNEL_FLOOR)
        mend = f"the kernels need {floor} or newer (bf16); here only the plain torch form runs, slowly"
        return Finding(name, WARNING, found, mend)
    sheet = data_sheet(gpu.name)
    if sheet is None:
        return Finding(name, NOTE, f"{found}; its peak speed is not known here, so no MFU is shown")
    return Finding(name, OK, f"{found}, {sheet.bf16_tflops:,.0f} TFLOP/s bf16")


def _is_built_for(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Machine code runs on the same major version from its minor one on; PTX on everything newer."""
    for text in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", text)
        if match is None:
            continue
        built = int(match[2]), int(match[3])
        if built <= capability and (match[1] == "compute" or built[0] == capability[0]):
            return True
    return False


def check_devices(torch: Any) -> list[Finding]:
    """The driver, torch's view of it, and each device that this process may use."""
    installed, wanted = installed_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible_gpus(installed, wanted)
    findings = [check_driver(torch, installed, bool(installed) or has_nvidia_device())]
    if installed and not gpus:
        mend = f"unset it (the driver shows {len(installed)}); a batch job has to ask for GPUs"
        findings.append(Finding("devices", FAULT, f"CUDA_VISIBLE_DEVICES={wanted!r} leaves none", mend))
    if cuda := check_cuda(torch, gpus):
        findings.append(cuda)
    architectures = torch.cuda.get_arch_list() if torch.cuda.is_available() else []
    findings += [describe_gpu(gpu, architectures) for gpu in gpus]
    if len({(gpu.name, gpu.memory) for gpu in gpus}) > 1:
        mend = (
            "CUDA_VISIBLE_DEVICES names those of one kind: together the slowest sets the pace, the smallest what fits"
        )
        findings.append(Finding("gpus", WARNING, "not all alike", mend))
    return findings
