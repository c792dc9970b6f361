"""The machine's NVIDIA devices as `nvidia-smi` knows them, and what their data sheets promise.

A process that has touched CUDA cannot fork vLLM's workers, and one whose driver is too old sees no device at all: so
this asks the driver's own program and imports no torch. `[N/A]` is an answer too: devices that share the host's memory
(GB10, Jetson) have none of their own.
"""

import os
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

DRIVER_FILE = Path("/proc/driver/nvidia/version")
QUERY = "index,uuid,name,memory.total,compute_cap,driver_version,mig.mode.current"
MIB = 1 << 20
PCIE_GBS = 32  # PCIe 4, sixteen lanes, one direction
MIG_LINE = re.compile(r"\s+MIG (?P<profile>\S*?(?P<gb>\d+)gb\S*)\s+Device\s+\d+: \(UUID: (?P<uuid>MIG-[\w/-]+)\)")


@dataclass(frozen=True)
class Gpu:
    """One device, or one MIG instance of one. `memory` is in bytes; None where it is the host's."""

    index: int
    uuid: str
    name: str
    memory: int | None
    capability: tuple[int, int] | None
    driver: str
    mig_mode: bool = False


@dataclass(frozen=True)
class DataSheet:
    """A device by its data sheet.

    `bf16_tflops`: dense, with fp32 sums; `bandwidth_tbs`: of its memory, TB/s; `memory_gib`: as nvidia-smi shows it,
    GiB (cards that spend memory on ECC have less than their name says); `link_gbs`: to its neighbours, GB/s in one
    direction (NVLink where the form comes with it, else PCIe); `capability`: as one number, 90 for 9.0.
    """

    bf16_tflops: float
    bandwidth_tbs: float
    memory_gib: float
    link_gbs: float
    capability: int


# NVIDIA's data sheets; a device's name is matched as the driver spells it, first match wins. Where a sheet gives the
# sparse figure, half of it stands here; GeForce figures are those with fp32 accumulation. The Server and Max-Q editions
# publish none for bf16: four times their fp32.
DATA_SHEETS: dict[str, DataSheet] = {
    "GB300": DataSheet(2500, 8.0, 277, 900, 103), "GB200": DataSheet(2500, 8.0, 185, 900, 100),
    "B300": DataSheet(2250, 7.7, 268.6, 900, 103), "B200": DataSheet(2250, 7.7, 179, 900, 100),
    "GH200": DataSheet(989.4, 4.0, 95.6, 450, 90), "H200 NVL": DataSheet(835.5, 4.8, 140.4, 64, 90),
    "H200": DataSheet(989.4, 4.8, 140.4, 450, 90), "H100 PCIe": DataSheet(756, 2.0, 79.6, 64, 90),
    "H100 NVL": DataSheet(835.5, 3.9, 93.6, 64, 90), "H100": DataSheet(989.4, 3.35, 79.6, 450, 90),
    "H800 PCIe": DataSheet(756, 2.0, 79.6, 64, 90), "H800": DataSheet(989.4, 3.35, 79.6, 200, 90),
    "H20-3e": DataSheet(148, 4.9, 140.4, 450, 90), "H20": DataSheet(148, 4.0, 95.6, 450, 90),
    "A100-PCIE-40GB": DataSheet(311.9, 1.56, 40, 32, 80), "A100-SXM4-40GB": DataSheet(311.9, 1.56, 40, 300, 80),
    "A100 80GB PCIe": DataSheet(311.9, 1.94, 80, 32, 80), "A800 80GB PCIe": DataSheet(311.9, 1.94, 80, 32, 80),
    "A100": DataSheet(311.9, 2.04, 80, 300, 80), "A800": DataSheet(311.9, 2.04, 80, 200, 80),
    "A30": DataSheet(165, 0.93, 24, 32, 80), "A40": DataSheet(149.7, 0.70, 45, 32, 86),
    "A10G": DataSheet(70, 0.60, 22.5, 32, 86), "A10": DataSheet(125, 0.60, 22.5, 32, 86),
    "L40S": DataSheet(362, 0.86, 45, 32, 89), "L40": DataSheet(181, 0.86, 45, 32, 89),
    "L4": DataSheet(121, 0.30, 22.5, 32, 89),
    "RTX PRO 6000 Blackwell Server": DataSheet(480, 1.6, 95.6, 64, 120),
    "RTX PRO 6000 Blackwell Max-Q": DataSheet(440, 1.79, 95.6, 64, 120),
    "RTX PRO 6000": DataSheet(503.8, 1.79, 95.6, 64, 120),
    "RTX 6000 Ada": DataSheet(364.2, 0.96, 48, 32, 89), "RTX A6000": DataSheet(154.8, 0.77, 48, 32, 86),
    "5090": DataSheet(209.5, 1.79, 31.8, 64, 120), "4090": DataSheet(165.2, 1.01, 24, 32, 89),
    "3090": DataSheet(71, 0.94, 24, 32, 86),
}  # fmt: skip
# `1c.3g.40gb`: one of the three compute slices, with the memory of all three (a compute instance).
MIG_NAME = re.compile(r"MIG (?:(?P<compute>\d+)c\.)?(?P<slices>\d+)g\.(?P<gb>\d+)gb")
# Compute slices of a whole device; elsewhere 7 (NVIDIA's MIG user guide).
MIG_SLICES = {"A30": 4} | dict.fromkeys((name for name in DATA_SHEETS if name.startswith("RTX PRO 6000")), 4)
OTHER_CARDS = r"(?! (?:Laptop|Ti|D)\b)"  # "4090 D" is another one than the 4090


def data_sheet(name: str) -> DataSheet | None:
    """The sheet of a device's name as the driver spells it, of a MIG instance its share; None where it is not known.

    `A10` is not an `A100`, and a laptop's 4090 no 4090.
    """
    for part, sheet in DATA_SHEETS.items():
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(part)}(?![A-Za-z0-9]){OTHER_CARDS}", name):
            mig = MIG_NAME.search(name)
            return _mig_share(sheet, mig, MIG_SLICES.get(part, 7)) if mig else sheet
    return None


def _mig_share(whole: DataSheet, mig: re.Match[str], slices: int) -> DataSheet:
    """What an instance has of the device: multiprocessors by its slices, bandwidth by its memory, no NVLink."""
    memory = min(float(mig["gb"]), whole.memory_gib)
    return replace(
        whole,
        bf16_tflops=whole.bf16_tflops * int(mig["compute"] or mig["slices"]) / slices,
        bandwidth_tbs=whole.bandwidth_tbs * memory / whole.memory_gib,
        memory_gib=memory,
        link_gbs=min(whole.link_gbs, PCIE_GBS),
    )


def run_nvidia_smi(*flags: str) -> str | None:
    """What `nvidia-smi` prints; None where it is missing, hangs or fails."""
    try:
        return subprocess.run(["nvidia-smi", *flags], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None


def nvidia_smi_says() -> str:
    """The first line of what a failing `nvidia-smi` has to say; "not found" where it is missing."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return "not found"
    except subprocess.TimeoutExpired:
        return "no answer within a minute"
    return next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "nothing")


def has_nvidia_device() -> bool:
    """Whether an NVIDIA driver runs here, even one that this torch cannot use."""
    return DRIVER_FILE.exists() or run_nvidia_smi("-L") is not None


def kernel_driver() -> str | None:
    """`580.82.07` of the kernel's module, where nvidia-smi says nothing; None without one."""
    try:
        text = DRIVER_FILE.read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"Kernel Module.*?\s(\d{3}\.[\d.]+)\s", text)
    return match[1] if match else None


def _capability(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def read_gpus(query: str, listing: str = "") -> list[Gpu]:
    """The devices of `nvidia-smi --query-gpu=QUERY --format=csv,noheader,nounits` and, for MIG, of `nvidia-smi -L`.

    A device in MIG mode is replaced by its instances, whose memory is their profile's (`1g.10gb`): nothing else of
    it can be used.
    """
    whole = []
    for line in query.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(QUERY.split(",")):
            continue
        index, uuid, name, memory, capability, driver, mig = cells
        size = int(memory) * MIB if memory.isdigit() else None
        whole.append(Gpu(int(index), uuid, name, size, _capability(capability), driver, mig == "Enabled"))
    if not any(gpu.mig_mode for gpu in whole):
        return whole
    found: list[Gpu] = []
    current: Gpu | None = None
    by_uuid = {gpu.uuid: gpu for gpu in whole}
    for line in listing.splitlines():
        if match := re.match(r"GPU \d+: .*\(UUID: (GPU-[\w-]+)\)", line):
            current = by_uuid.get(match[1])
            if current and not current.mig_mode:
                found.append(current)
        elif (match := MIG_LINE.match(line)) and current:
            name = f"{current.name} MIG {match['profile']}"
            found.append(replace(current, uuid=match["uuid"], name=name, memory=int(match["gb"]) << 30))
    return found


def visible_gpus(gpus: list[Gpu], wanted: str | None) -> list[Gpu]:
    """Those that CUDA shows a process under `CUDA_VISIBLE_DEVICES=wanted`, in its order.

    Entries are indices or (beginnings of) UUIDs; as in CUDA, the first that names nothing ends the list. Of MIG
    instances a process sees one.
    """
    if wanted is None:
        first_mig = next((gpu for gpu in gpus if gpu.mig_mode), None)
        return [gpu for gpu in gpus if not gpu.mig_mode] or ([first_mig] if first_mig else [])
    chosen: list[Gpu] = []
    for entry in filter(None, (part.strip() for part in wanted.split(","))):
        match = next((gpu for gpu in gpus if _is_named(gpu, entry)), None)
        if match is None:
            break
        chosen.append(match)
    return chosen


def _is_named(gpu: Gpu, entry: str) -> bool:
    if entry.isdigit():
        return gpu.index == int(entry)
    return gpu.uuid.startswith(entry)


def installed_gpus() -> list[Gpu]:
    """The machine's devices and MIG instances, whatever `CUDA_VISIBLE_DEVICES` says; empty without a driver."""
    query = run_nvidia_smi(f"--query-gpu={QUERY}", "--format=csv,noheader,nounits")
    if query is None:
        return []
    listing = run_nvidia_smi("-L") if ", Enabled" in query else ""
    return read_gpus(query, listing or "")


def list_gpus() -> list[Gpu]:
    """The devices that this process may use; empty without a driver."""
    return visible_gpus(installed_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
