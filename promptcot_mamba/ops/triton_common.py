"""What every Triton kernel here shares: launching and counting launches, device classes, rows, device functions.

Tensors reach the kernels as rows: a token's channels side by side, one stride between tokens. A view cut out of a
wider projection therefore needs no copy.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.packing import ChunkTable, make_chunk_table, row_boundaries

LOG2E = tl.constexpr(1.4426950408889634)
MOST_ARRIVALS = 1 << 16


@dataclass(frozen=True, eq=False)
class Launch:
    """One start of a kernel: what `kernel[grid](*args, **kwargs)` was, or would have been, called with."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        return self.kernel.__name__.removesuffix("_kernel")


_recording: list[Launch] | None = None
_run_recorded = True


@contextmanager
def record_launches(run: bool = True) -> Iterator[list[Launch]]:
    """Collect the launches inside the block, in order; with `run=False` none starts, and meta tensors will do."""
    global _recording, _run_recorded
    before = _recording, _run_recorded
    _recording, _run_recorded = [], run
    try:
        yield _recording
    finally:
        _recording, _run_recorded = before


def on_device_of(args: Iterable[Any]) -> AbstractContextManager:
    """Inside, the first tensor's CUDA device is current: Triton compiles for the current one and starts there."""
    device = next((value.device for value in args if isinstance(value, torch.Tensor)), None)
    return torch.cuda.device(device) if device is not None and device.type == "cuda" else nullcontext()


def launch(kernel, grid: tuple[int, ...], *args, **kwargs) -> None:
    """Start one kernel on the device of its tensors; an empty grid starts none."""
    if 0 in grid:
        return
    if _recording is not None:
        _recording.append(Launch(kernel, grid, args, kwargs))
    if _recording is None or _run_recorded:
        with on_device_of(args):
            kernel[grid](*args, **kwargs)


@cache
def multiprocessors(device: torch.device) -> int:
    """How many programs run side by side at least; 1 off CUDA, where the interpreter runs them in turn."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def chunk_table(batch: int, length: int, cu_seqlens: torch.Tensor | None, size: int, device) -> ChunkTable:
    """The chunks of every sequence over the flattened (b*l) tokens."""
    if cu_seqlens is None:
        cu_seqlens = row_boundaries(batch, length, device)
    return make_chunk_table(cu_seqlens, size)


def as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """(b, l, ...) -> (b*l, channels) with unit stride between channels: a view where strides allow, else a copy."""
    rows = tensor.flatten(2) if tensor.dim() > 3 else tensor
    rows = rows.flatten(0, 1)
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def require_power_of_two(op: str, name: str, size: int, low: int, high: int) -> None:
    """Raise InputError unless `size` is a power of two the kernels have tiles for."""
    if size & (size - 1) or not low <= size <= high:
        raise InputError(f"{op}: the triton backend takes {name} of a power of two from {low} to {high}, found {size}")


@cache
def _arrivals(device: torch.device, stream: int) -> torch.Tensor:
    return torch.zeros(MOST_ARRIVALS, dtype=torch.int32, device=device)


def arrival_counters(tensor: torch.Tensor) -> torch.Tensor:
    """Zeroed int32 counters for `arrives_last`, which zeroes them again; one set a stream, whose kernels take turns."""
    stream = torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else 0
    return _arrivals(tensor.device, stream)


@triton.jit
def arrives_last(counter, expected):
    """True in the last of `expected` programs to call this, which then sees what all of them stored before."""
    tl.debug_barrier()  # every thread's stores come before the program's arrival
    last = tl.atomic_add(counter, 1, sem="acq_rel") == expected - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def softplus(x):
    """log(1 + exp(x)), without overflow for large x and without cancellation for very negative x."""
    e = tl.exp2(-tl.abs(x) * LOG2E)  # in (0, 1]
    # log(1 + e) loses e below 2^-24; there it equals e - e^2 / 2
    return tl.maximum(x, 0.0) + tl.where(e < 1e-3, e * (1.0 - 0.5 * e), tl.log2(1.0 + e) / LOG2E)


@triton.jit
def sum_copies_kernel(
    copies, out, n_copies, copy_stride, n_elements, width, out_row, BLOCK_COPIES: tl.constexpr, BLOCK: tl.constexpr
):
    """out (rows, width), rows `out_row` elements apart = the sum of n_copies blocks, in a fixed order."""
    elements = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, n_copies, BLOCK_COPIES):
        copy = first + tl.arange(0, BLOCK_COPIES)
        mask = (copy < n_copies)[:, None] & (elements < n_elements)[None, :]
        offsets = copy.to(tl.int64)[:, None] * copy_stride + elements[None, :]
        total += tl.sum(tl.load(copies + offsets, mask=mask, other=0.0), axis=0)
    places = elements // width * out_row + elements % width
    tl.store(out + places, total.to(out.dtype.element_ty), mask=elements < n_elements)


def sum_copies(copies: torch.Tensor, out: torch.Tensor) -> None:
    """Sum fp32 copies (s, rows, width), each contiguous, into `out` (rows, width) of any row stride and dtype."""
    n_copies, rows, width = copies.shape
    block_copies, block = (64, 32) if n_copies > 16 else (4, 256)
    launch(
        sum_copies_kernel, (triton.cdiv(rows * width, block),), copies, out, n_copies, copies.stride(0), rows * width,
        width, out.stride(0), BLOCK_COPIES=block_copies, BLOCK=block, num_warps=4,
    )  # fmt: skip
