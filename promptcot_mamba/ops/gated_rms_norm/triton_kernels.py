"""The grouped gated norm on Triton kernels: one launch each way, nothing kept but the inputs."""

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.triton_common import (
    arrival_counters,
    arrives_last,
    launch,
    multiprocessors,
    sigmoid,
)

LARGEST_GROUP = 8192  # one row of a group is one tile


@triton.jit
def _gated(x, z, mask):
    """x in fp32, u = x silu(z), and the two factors of silu: the gate and how far it is open."""
    value = tl.load(x, mask=mask, other=0.0).to(tl.float32)
    gate = value
    gate_open = value
    gated = value
    if z is not None:
        gate = tl.load(z, mask=mask, other=0.0).to(tl.float32)
        gate_open = sigmoid(gate)
        gated = value * gate * gate_open
    return value, gated, gate, gate_open


@triton.jit
def norm_forward_kernel(
    x, z, weight, y, x_row, z_row, y_row, n_rows, eps,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """y = u rsqrt(mean(u^2) + eps) weight over each GROUP channels. Grid: (rows / ROWS, d / GROUP)."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = tl.arange(0, BLOCK) < GROUP
    channels = tl.program_id(1) * GROUP + tl.arange(0, BLOCK)
    mask = (rows < n_rows)[:, None] & inside[None, :]
    z_tile = z + rows[:, None] * z_row + channels[None, :] if z is not None else None
    _, u, _, _ = _gated(x + rows[:, None] * x_row + channels[None, :], z_tile, mask)
    scale = tl.rsqrt(tl.sum(u * u, axis=1) / GROUP + eps)
    gain = tl.load(weight + channels, mask=inside, other=0.0).to(tl.float32)
    out = u * scale[:, None] * gain[None, :]
    tl.store(y + rows[:, None] * y_row + channels[None, :], out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def norm_backward_kernel(
    x, z, weight, dy, dx, dz, dweight, partials, arrivals, x_row, z_row, dy_row, dx_row, dz_row, n_rows, d, eps,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, SUM_ROWS: tl.constexpr,
):  # fmt: skip
    """Grid: (programs, d / GROUP); each program takes every n-th block of ROWS rows. partials: (programs, d) fp32."""
    program = tl.program_id(0)
    n_programs = tl.num_programs(0)
    inside = tl.arange(0, BLOCK) < GROUP
    channels = tl.program_id(1) * GROUP + tl.arange(0, BLOCK)
    gain = tl.load(weight + channels, mask=inside, other=0.0).to(tl.float32)
    share = tl.zeros([BLOCK], tl.float32)
    for block in range(program, tl.cdiv(n_rows, ROWS), n_programs):
        rows = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        mask = (rows < n_rows)[:, None] & inside[None, :]
        z_tile = z + rows[:, None] * z_row + channels[None, :] if z is not None else None
        value, u, gate, gate_open = _gated(x + rows[:, None] * x_row + channels[None, :], z_tile, mask)
        grad = tl.load(dy + rows[:, None] * dy_row + channels[None, :], mask=mask, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(u * u, axis=1) / GROUP + eps)[:, None]
        normed = u * scale
        share += tl.sum(grad * normed, axis=0)
        grad *= gain[None, :]
        du = (grad - normed * (tl.sum(grad * normed, axis=1) / GROUP)[:, None]) * scale
        if z is not None:
            silu = gate * gate_open
            dz_tile = du * value * (gate_open + silu * (1.0 - gate_open))
            tl.store(dz + rows[:, None] * dz_row + channels[None, :], dz_tile.to(dz.dtype.element_ty), mask=mask)
            du *= silu
        tl.store(dx + rows[:, None] * dx_row + channels[None, :], du.to(dx.dtype.element_ty), mask=mask)
    tl.store(partials + program.to(tl.int64) * d + channels, share, mask=inside)
    if arrives_last(arrivals + tl.program_id(1), n_programs):
        total = tl.zeros([BLOCK], tl.float32)
        for first in range(0, n_programs, SUM_ROWS):
            programs = first + tl.arange(0, SUM_ROWS)
            shares = partials + programs.to(tl.int64)[:, None] * d + channels[None, :]
            known = (programs < n_programs)[:, None] & inside[None, :]
            total += tl.sum(tl.load(shares, mask=known, other=0.0, cache_modifier=".cg"), axis=0)
        tl.store(dweight + channels, total.to(dweight.dtype.element_ty), mask=inside)


def _tile(group_size: int, numbers: int) -> dict[str, int]:
    """Rows of one tile of about `numbers` elements, 4 warps; 8 where one row is longer."""
    block = max(16, triton.next_power_of_2(group_size))
    return {
        "GROUP": group_size, "BLOCK": block, "ROWS": max(1, numbers // block), "num_warps": 4 if block <= 4096 else 8,
    }  # fmt: skip


def run_forward(x, z, weight, y, eps: float, group_size: int) -> None:
    """y (rows, d) from x and z (rows, d), any row strides."""
    n_rows, d = x.shape
    tile = _tile(group_size, 4096)
    launch(
        norm_forward_kernel, (triton.cdiv(n_rows, tile["ROWS"]), d // group_size),
        x, z, weight, y, x.stride(0), 0 if z is None else z.stride(0), y.stride(0), n_rows, eps, **tile,
    )  # fmt: skip


def run_backward(x, z, weight, dy, dx, dz, eps: float, group_size: int) -> torch.Tensor:
    """Write dx and dz (rows, d), any row strides; returns the gradient of weight."""
    n_rows, d = x.shape
    tile = _tile(group_size, 1024)
    groups = d // group_size
    programs = min(triton.cdiv(n_rows, tile["ROWS"]), max(1, 8 * multiprocessors(x.device) // groups))
    dweight = torch.empty(d, dtype=weight.dtype, device=x.device)
    partials = torch.empty(programs, d, dtype=torch.float32, device=x.device)
    launch(
        norm_backward_kernel, (programs, groups),
        x, z, weight, dy, dx, dz, dweight, partials, arrival_counters(x),
        x.stride(0), 0 if z is None else z.stride(0), dy.stride(0), dx.stride(0), 0 if dz is None else dz.stride(0),
        n_rows, d, eps, SUM_ROWS=max(1, 8192 // tile["BLOCK"]), **tile,
    )  # fmt: skip
    return dweight


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """(..., d) -> (rows, d), a view where strides allow."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


class _GatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, z, weight, eps, group_size):
        y = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
        run_forward(_rows(x), None if z is None else _rows(z), weight.contiguous(), _rows(y), eps, group_size)
        ctx.save_for_backward(x, z, weight)
        ctx.eps, ctx.group_size = eps, group_size
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, z, weight = ctx.saved_tensors
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        dz = None if z is None else torch.empty(z.shape, dtype=z.dtype, device=z.device)
        dweight = run_backward(
            _rows(x), None if z is None else _rows(z), weight.contiguous(), _rows(dy), _rows(dx),
            None if dz is None else _rows(dz), ctx.eps, ctx.group_size,
        )  # fmt: skip
        return dx, dz, dweight, None, None


def gated_rms_norm_triton(x, z, weight, *, eps, group_size):
    """See `promptcot_mamba.ops.gated_rms_norm.gated_rms_norm`. Computes in fp32.

    Raises:
        InputError: for float64 and for groups of more than 8192 channels.
    """
    if x.dtype == torch.float64:
        raise InputError("gated_rms_norm: the triton backend takes float16, bfloat16 or float32, found x of float64")
    if group_size > LARGEST_GROUP:
        raise InputError(f"gated_rms_norm: the triton backend takes groups of at most {LARGEST_GROUP} channels, "
                         f"found {group_size}")  # fmt: skip
    return _GatedRMSNorm.apply(x, z, weight, eps, group_size)
