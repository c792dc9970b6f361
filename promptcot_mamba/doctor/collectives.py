"""An all-reduce between this machine's devices (NCCL) or between two of its processes (gloo)."""

import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from promptcot_mamba.doctor.finding import FAULT, NOTE, OK, WARNING, Finding

CUDA_BYTES, CPU_BYTES = 256 << 20, 8 << 20
ROUNDS = 5
TIMEOUT = timedelta(seconds=60)
NCCL_MEND = "NCCL_DEBUG=INFO shows where it stops; NCCL_SOCKET_IFNAME names the interface; containers need --ipc=host"
SLOW_GB_PER_SECOND = 10  # below what PCIe 4 gives; NVLink gives hundreds


def _reduce(rank: int, world: int, backend: str, store: str, answer: str) -> None:
    """One process: sum a buffer a few times; the first writes the seconds of the fastest round, and checks the sum."""
    device = torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(rank)
        device = torch.device("cuda", rank)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=world, timeout=TIMEOUT)
    size = CUDA_BYTES if backend == "nccl" else CPU_BYTES
    seconds = []
    for _ in range(ROUNDS):
        buffer = torch.full((size // 4,), float(rank + 1), device=device)
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(buffer)
        total = float(buffer[-1])  # waits for the device
        seconds.append(time.perf_counter() - started)
        if total != world * (world + 1) / 2:
            raise RuntimeError(f"the sum over ranks is {total}, expected {world * (world + 1) / 2}")
    if rank == 0:
        Path(answer).write_text(str(min(seconds)), encoding="utf-8")
    dist.destroy_process_group()


def check_all_reduce(world: int, backend: str) -> Finding:
    """Sum a buffer over `world` processes and say the bus bandwidth, 2 (n - 1) / n of the buffer over the time."""
    name = f"all-reduce ({backend})"
    with tempfile.TemporaryDirectory() as folder:
        answer = os.path.join(folder, "seconds")  # noqa: PTH118  # spawn wants plain text
        try:
            mp.spawn(_reduce, (world, backend, os.path.join(folder, "store"), answer), nprocs=world)  # noqa: PTH118
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            reason = str(error).strip().splitlines()[-1]
            return Finding(name, FAULT, f"failed: {reason:.160}", NCCL_MEND if backend == "nccl" else "")
        seconds = float(Path(answer).read_text(encoding="utf-8"))
    size = CUDA_BYTES if backend == "nccl" else CPU_BYTES
    speed = 2 * (world - 1) / world * size / seconds / 1e9
    found = f"{world} processes, {speed:.1f} GB/s"
    if backend == "nccl" and speed < SLOW_GB_PER_SECOND:
        mend = "nvidia-smi topo -m shows the links; without peer access gradients cross the host's memory"
        return Finding(name, WARNING, found, mend)
    return Finding(name, OK, found)


def check_collectives() -> Finding:
    """NCCL between all visible devices; one device needs none; gloo between two processes on a CPU."""
    if not torch.cuda.is_available():
        return check_all_reduce(2, "gloo")
    if torch.cuda.device_count() == 1:
        return Finding("all-reduce (nccl)", NOTE, "one device: nothing to reduce between")
    return check_all_reduce(torch.cuda.device_count(), "nccl")
