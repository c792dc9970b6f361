"""What the parts of the device proof share: records that grow row by row, timers, the device's ceilings, profiles."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from promptcot_mamba.bench_record import NOT_MEASURED, RecordTable, device_name, write_record
from promptcot_mamba.errors import InputError
from promptcot_mamba.run_info import git_commit, installed_versions

# What a peer raises that is missing, was built against other versions, or asks for too much memory (torch's
# OutOfMemoryError is a RuntimeError). It reads "not measured" then, and the rest of the run goes on.
PEER_FAILURES = (ImportError, RuntimeError, AttributeError, TypeError, AssertionError, InputError)
# Cycles a device idles before a timed call, about 2 ms: the host has launched all of the call's kernels by then, so
# that the kernels are timed and not their launching.
HEAD_START = 4_000_000
Row = dict[str, Any]


def peer_failures() -> tuple[type[Exception], ...]:
    """PEER_FAILURES and what Triton raises for a kernel it cannot compile or run."""
    try:
        from triton.errors import TritonError
    except ImportError:
        return PEER_FAILURES
    return (*PEER_FAILURES, TritonError)


def say_not_measured(error: Exception | str) -> str:
    """`not measured: why`, in one line."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return f"{NOT_MEASURED}: {(text.strip() or 'no reason given').splitlines()[0]}"


def use_device(dry_run: bool) -> str:
    """cuda, or cpu for a rehearsal. Raises InputError where neither is asked for and there."""
    if dry_run:
        return "cpu"
    if not torch.cuda.is_available():
        raise InputError("no CUDA device: measure where there is one, or pass --dry_run True to rehearse on the CPU")
    return "cuda"


def _clean(value: Any) -> Any:
    """A commit without the mark of changed files: writing docs/RESULTS.md between two runs makes one."""
    return value.removesuffix("-dirty") if isinstance(value, str) else value


class PartRecord:
    """The record of one part: rows by key, written as they come, continued by a later run on the same machine.

    Its path is docs/records/<device>-<date>-<part>.json unless `path` names another; the latest record of this device
    and part is continued. A rehearsal without a path writes nothing.
    """

    def __init__(
        self, part: str, *, title: str, config: dict[str, Any], path: str | None, dry_run: bool, overwrite: bool
    ):
        self.title, self.config = title, config
        self.rows: dict[str, Row] = {}
        self.path = self._find_path(part, path, dry_run, overwrite)
        if self.path is not None and self.path.exists() and not overwrite:
            self.rows = self._read(self.path)

    @staticmethod
    def _find_path(part: str, path: str | None, dry_run: bool, overwrite: bool) -> Path | None:
        if path is not None or dry_run:
            return Path(path) if path is not None else None
        folder = Path("docs/records")
        slug = torch.cuda.get_device_name().lower().replace(" ", "-")
        earlier = sorted(folder.glob(f"{slug}-[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]-{part}.json"))
        if earlier and not overwrite:
            return earlier[-1]
        return folder / f"{slug}-{time.strftime('%Y-%m-%d')}-{part}.json"

    @staticmethod
    def _read(path: Path) -> dict[str, Row]:
        found = json.loads(path.read_text(encoding="utf-8"))
        here = {"device": device_name(), "versions": installed_versions(), "commit": git_commit()}
        for name, value in here.items():
            if _clean(found.get(name)) != _clean(value):
                raise InputError(
                    f"{path}: was measured with another {name} ({found.get(name)}, here {value}); "
                    "pass --overwrite True to measure anew, or --record for another file"
                )
        return found["results"]

    def measure(self, key: str, make: Callable[[], Row], tables: Callable[[dict[str, Row]], Sequence[RecordTable]]):
        """The row of this key: as recorded, or made now and written at once. One that failed is tried again."""
        if "failed" in self.rows.get(key, {"failed": ""}):
            self.rows[key] = make()
            self.write(tables)
        return self.rows[key]

    def write(self, tables: Callable[[dict[str, Row]], Sequence[RecordTable]]) -> None:
        if self.path is not None:
            write_record(self.path, title=self.title, config=self.config, tables=tables(self.rows), results=self.rows)


def time_calls(call: Callable[[], object], repeats: int, device: str) -> dict[str, Any]:
    """Median and spread in ms of `repeats` timings: device time on CUDA, with the host's launching hidden."""
    for _ in range(3):  # warm-up
        call()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(HEAD_START)
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - begin))
    return {"median_ms": statistics.median(times), "lowest_ms": min(times), "highest_ms": max(times), "n": len(times)}


def measure_ceilings(device: str) -> Row:
    """What the device itself reaches: a copy's bytes a second, read and written, and a bf16 product's FLOP/s."""
    size = 2**30 if device == "cuda" else 2**16
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = time_calls(lambda: target.copy_(source), 9, device)
    side = 8192 if device == "cuda" else 64
    left = torch.randn(side, side, device=device).bfloat16()
    product = time_calls(lambda: left @ left, 9, device)
    return {
        "copy_terabytes_per_second": 2 * size / copy["median_ms"] / 1e9,
        "matmul_teraflops": 2 * side**3 / product["median_ms"] / 1e9,
        "copy": copy, "matmul": product,
    }  # fmt: skip


def profile_kernels(call: Callable[[], object], device: str, most: int = 12) -> Row:
    """Where a call's device time goes: milliseconds and launches of its `most` costliest kernels (CPU: operators)."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    call()
    with profile(activities=activities) as profiler:
        call()
        if device == "cuda":
            torch.cuda.synchronize()
    entries = []
    for event in profiler.key_averages():
        on_device = event.device_type.name == "CUDA"
        if on_device != (device == "cuda"):
            continue
        spent = event.self_device_time_total if on_device else event.self_cpu_time_total
        entries.append({"kernel": event.key, "launches": event.count, "ms": spent / 1e3})
    entries.sort(key=lambda entry: -entry["ms"])
    total = sum(entry["ms"] for entry in entries)
    if not total:
        return {"failed": say_not_measured("the profiler saw no kernel (is CUPTI allowed here?)")}
    launches = sum(entry["launches"] for entry in entries)
    return {"total_ms": total, "launches": launches, "kernels": entries[:most]}


def profile_table(caption: str, row: Row) -> RecordTable:
    """A profile's kernels, costliest first."""
    header = ["kernel", "launches", "ms", "share"]
    if "failed" in row:
        return RecordTable(caption, header, [[row["failed"], "-", "-", "-"]])
    rows = [
        [entry["kernel"][:80].replace("|", "/"), str(entry["launches"]), *_share(entry["ms"], row["total_ms"])]
        for entry in row["kernels"]
    ]
    left = row["total_ms"] - sum(entry["ms"] for entry in row["kernels"])
    launched = row["launches"] - sum(entry["launches"] for entry in row["kernels"])
    rows.append(["the rest", str(launched), *_share(left, row["total_ms"])])
    return RecordTable(f"{caption}: {row['total_ms']:.2f} ms in {row['launches']} launches.", header, rows)


def _share(milliseconds: float, total: float) -> tuple[str, str]:
    return f"{milliseconds:.3f}", f"{milliseconds / total:.1%}"
