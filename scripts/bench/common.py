"""What the training benchmarks share: an interleaved stopwatch, peaks of memory, tables."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from promptcot_mamba.bench_record import RecordTable
from promptcot_mamba.errors import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def time_interleaved(
    calls: dict[str, Callable[[], Any]], repeats: int, device: str, warmup: int = 2
) -> dict[str, dict]:
    """Seconds of each call, taken in turns so that a noisy machine treats all alike; medians and spreads in ms."""
    for call in calls.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in tqdm(range(repeats), desc="timing " + ", ".join(calls), unit="turn"):
        for name, call in calls.items():
            synchronize(device)
            started = time.perf_counter()
            call()
            synchronize(device)
            seconds[name].append(time.perf_counter() - started)
    return {name: summarize(taken) for name, taken in seconds.items()}


def reset_peak_memory() -> int:
    """Start this process's peak of resident memory anew; the bytes resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _read_status("VmRSS")


def peak_memory() -> int:
    """The most bytes this process held resident since its peak was reset."""
    return _read_status("VmHWM")


def _read_status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise InputError(f"/proc/self/status: no {name}; scripts.bench.train leaves memory out with --memory_length 0")


def summarize(seconds: list[float]) -> dict[str, Any]:
    """Median, quartiles and count, in milliseconds."""
    quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    return {
        "median_ms": statistics.median(seconds) * 1e3,
        "quartiles_ms": [quartiles[0] * 1e3, quartiles[2] * 1e3],
        "min_ms": min(seconds) * 1e3,
        "n": len(seconds),
    }


def make_table(caption: str, header: list[str], rows: list[list[Any]]) -> RecordTable:
    """A record's table; floats with three significant digits."""
    cells = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    return RecordTable(caption, header, cells)
