"""The convolution on Triton kernels: one launch each way, nothing kept but the inputs.

Both kernels cut every document into runs of tokens. The forward reads each token once per tap, which the L1 cache
serves. The backward walks down its run instead, the last taps in registers: every activation's derivative is worked
out once, and the sums over tokens for the weights stay in registers until the run ends.
"""

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.causal_conv1d import find_width_misfit
from promptcot_mamba.ops.triton_common import (
    arrival_counters,
    arrives_last,
    as_rows,
    chunk_table,
    launch,
    sigmoid,
)

FORWARD_RUN, FORWARD_CHANNELS, FORWARD_WARPS = 32, 128, 4
BACKWARD_RUN, BACKWARD_CHANNELS, BACKWARD_WARPS = 128, 256, 4


@triton.jit
def _row_before(x, initial, t, doc_start, document, x_row, d, channels, known, WIDTH: tl.constexpr):
    """Token `t` of a document, fp32, reaching into its initial state where t lies before its start."""
    t += tl.zeros_like(channels)  # masks want one comparison a lane
    row = tl.load(x + t * x_row + channels, mask=known & (t >= doc_start), other=0.0).to(tl.float32)
    if initial is not None:
        place = t - doc_start + (WIDTH - 1)
        earlier = known & (t < doc_start) & (place >= 0)
        row += tl.load(
            initial + (document * d + channels) * (WIDTH - 1) + place, mask=earlier, other=0.0
        ).to(tl.float32)  # fmt: skip
    return row


@triton.jit
def conv_forward_kernel(
    x, weight, bias, initial, y, final, starts, lengths, documents, first_chunks, x_row, y_row, d,
    WIDTH: tl.constexpr, RUN: tl.constexpr, BLOCK_D: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Grid: (runs, d / BLOCK_D). x, y: rows; weight (d, w); initial, final (docs, d, w-1)."""
    run = tl.program_id(0)
    channels = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    known = channels < d
    start = tl.load(starts + run)
    length = tl.load(lengths + run)
    document = tl.load(documents + run)
    doc_start = tl.load(starts + tl.load(first_chunks + document))
    tokens = tl.arange(0, RUN)
    inside = (tokens < length)[:, None] & known[None, :]
    total = tl.zeros([RUN, BLOCK_D], tl.float32)
    if bias is not None:
        total += tl.load(bias + channels, mask=known, other=0.0).to(tl.float32)[None, :]
    for back in tl.static_range(WIDTH):
        tap = tl.load(weight + channels * WIDTH + (WIDTH - 1 - back), mask=known, other=0.0).to(tl.float32)
        place = start - back - doc_start + tokens  # of the token read, in its document
        rows = x + (start - back) * x_row + tokens[:, None] * x_row + channels[None, :]
        tile = tl.load(rows, mask=inside & (place >= 0)[:, None], other=0.0).to(tl.float32)
        total += tap[None, :] * tile
    # Row by row: a tile of pointers more would spill registers.
    if initial is not None:  # noqa: SIM102
        if start == doc_start:
            for k in tl.static_range(WIDTH - 1):
                earlier = tl.load(initial + (document * d + channels) * (WIDTH - 1) + k, mask=known, other=0.0)
                for token in tl.static_range(k + 1):
                    tap = tl.load(weight + channels * WIDTH + (k - token), mask=known, other=0.0).to(tl.float32)
                    seen = (tap * earlier.to(tl.float32))[None, :]
                    total += tl.where((tokens == token)[:, None], seen, 0.0)
    if SILU:
        total *= sigmoid(total)
    places = y + start * y_row + tokens[:, None] * y_row + channels[None, :]
    tl.store(places, total.to(y.dtype.element_ty), mask=inside)
    if final is not None:  # noqa: SIM102
        if run == tl.load(first_chunks + document + 1) - 1:
            for k in tl.static_range(WIDTH - 1):
                t = start + length - (WIDTH - 1) + k
                row = _row_before(x, initial, t, doc_start, document, x_row, d, channels, known, WIDTH)
                tl.store(
                    final + (document * d + channels) * (WIDTH - 1) + k, row.to(final.dtype.element_ty), mask=known
                )


@triton.jit
def _tap(weight, channels, known, back: tl.constexpr, WIDTH: tl.constexpr):
    """The weight of the token `back` steps earlier, 0 past the filter's width."""
    return tl.load(
        weight + channels * WIDTH + (WIDTH - 1 - back), mask=known & (channels * 0 + back < WIDTH), other=0.0
    ).to(tl.float32)  # fmt: skip


@triton.jit
def _before_activation(dy, x0, x1, x2, x3, w0, w1, w2, w3, offset, SILU: tl.constexpr):
    """The gradient before the activation, from the one after it."""
    grad = dy.to(tl.float32)
    if SILU:
        pre = offset + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
        gate_open = sigmoid(pre)
        grad *= gate_open * (1.0 + pre * (1.0 - gate_open))
    return grad


@triton.jit
def _emit(
    dx, dfinal, dinitial, grad, t, start, doc_start, doc_end, own_end, document, dx_row, d, channels, known,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Store the gradient of token `t`, or of the initial state where t lies before its document."""
    t += tl.zeros_like(channels)
    if dfinal is not None:
        place = t - doc_end + WIDTH - 1
        grad += tl.load(
            dfinal + (document * d + channels) * (WIDTH - 1) + place, mask=known & (place >= 0) & (t < doc_end),
            other=0.0,
        ).to(tl.float32)  # fmt: skip
    tl.store(dx + t * dx_row + channels, grad.to(dx.dtype.element_ty), mask=known & (t >= start) & (t < own_end))
    if dinitial is not None:
        place = t - doc_start + WIDTH - 1
        tl.store(
            dinitial + (document * d + channels) * (WIDTH - 1) + place, grad.to(dinitial.dtype.element_ty),
            mask=known & (t * 0 + start == doc_start) & (t < doc_start) & (place >= 0),
        )  # fmt: skip


@triton.jit
def conv_backward_kernel(
    x, weight, bias, initial, dy, dfinal, dx, dweight, dbias, dinitial, partials, arrivals,
    starts, lengths, documents, first_chunks, x_row, dy_row, dx_row, d, n_runs,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Grid: (runs, d / BLOCK_D). partials: (runs, 5, d) fp32, four taps and the bias.

    Four tokens at a time, so that eight loads are on their way together. A token's gradient is complete three tokens
    later; a run therefore reads three tokens into the next and leaves their share of the weights to it.
    """
    run = tl.program_id(0)
    channels = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    known = channels < d
    start = tl.load(starts + run)
    own_end = start + tl.load(lengths + run)
    document = tl.load(documents + run)
    last_run = tl.load(first_chunks + document + 1) - 1
    doc_start = tl.load(starts + tl.load(first_chunks + document))
    doc_end = tl.load(starts + last_run) + tl.load(lengths + last_run)
    w0 = _tap(weight, channels, known, 0, WIDTH)
    w1 = _tap(weight, channels, known, 1, WIDTH)
    w2 = _tap(weight, channels, known, 2, WIDTH)
    w3 = _tap(weight, channels, known, 3, WIDTH)
    offset = tl.zeros([BLOCK_D], tl.float32)
    if bias is not None:
        offset += tl.load(bias + channels, mask=known, other=0.0).to(tl.float32)
    # x a, b, c and the gradients p a, b, c stand one, two and three tokens back.
    xa = _row_before(x, initial, start - 1, doc_start, document, x_row, d, channels, known, WIDTH)
    xb = _row_before(x, initial, start - 2, doc_start, document, x_row, d, channels, known, WIDTH)
    xc = _row_before(x, initial, start - 3, doc_start, document, x_row, d, channels, known, WIDTH)
    zeros = tl.zeros([BLOCK_D], tl.float32)
    pa, pb, pc = zeros, zeros, zeros
    s0, s1, s2, s3, s_bias = zeros, zeros, zeros, zeros, zeros
    for step in range(0, tl.cdiv((own_end - start).to(tl.int32) + 3, 4)):
        t = start + 4 * step
        xs = x + t * x_row + channels
        dys = dy + t * dy_row + channels
        line = t + tl.zeros_like(channels)
        x0 = tl.load(xs, mask=known & (line < doc_end), other=0.0).to(tl.float32)
        x1 = tl.load(xs + x_row, mask=known & (line + 1 < doc_end), other=0.0).to(tl.float32)
        x2 = tl.load(xs + 2 * x_row, mask=known & (line + 2 < doc_end), other=0.0).to(tl.float32)
        x3 = tl.load(xs + 3 * x_row, mask=known & (line + 3 < doc_end), other=0.0).to(tl.float32)
        p0 = tl.load(dys, mask=known & (line < doc_end), other=0.0)
        p1 = tl.load(dys + dy_row, mask=known & (line + 1 < doc_end), other=0.0)
        p2 = tl.load(dys + 2 * dy_row, mask=known & (line + 2 < doc_end), other=0.0)
        p3 = tl.load(dys + 3 * dy_row, mask=known & (line + 3 < doc_end), other=0.0)
        p0 = _before_activation(p0, x0, xa, xb, xc, w0, w1, w2, w3, offset, SILU)
        p1 = _before_activation(p1, x1, x0, xa, xb, w0, w1, w2, w3, offset, SILU)
        p2 = _before_activation(p2, x2, x1, x0, xa, w0, w1, w2, w3, offset, SILU)
        p3 = _before_activation(p3, x3, x2, x1, x0, w0, w1, w2, w3, offset, SILU)
        q0 = tl.where(line < own_end, p0, 0.0)
        q1 = tl.where(line + 1 < own_end, p1, 0.0)
        q2 = tl.where(line + 2 < own_end, p2, 0.0)
        q3 = tl.where(line + 3 < own_end, p3, 0.0)
        s0 += q0 * x0 + q1 * x1 + q2 * x2 + q3 * x3
        s1 += q0 * xa + q1 * x0 + q2 * x1 + q3 * x2
        s2 += q0 * xb + q1 * xa + q2 * x0 + q3 * x1
        s3 += q0 * xc + q1 * xb + q2 * xa + q3 * x0
        s_bias += q0 + q1 + q2 + q3
        _emit(dx, dfinal, dinitial, w0 * pc + w1 * pb + w2 * pa + w3 * p0, t - 3, start, doc_start, doc_end, own_end,
              document, dx_row, d, channels, known, WIDTH)  # fmt: skip
        _emit(dx, dfinal, dinitial, w0 * pb + w1 * pa + w2 * p0 + w3 * p1, t - 2, start, doc_start, doc_end, own_end,
              document, dx_row, d, channels, known, WIDTH)  # fmt: skip
        _emit(dx, dfinal, dinitial, w0 * pa + w1 * p0 + w2 * p1 + w3 * p2, t - 1, start, doc_start, doc_end, own_end,
              document, dx_row, d, channels, known, WIDTH)  # fmt: skip
        _emit(dx, dfinal, dinitial, w0 * p0 + w1 * p1 + w2 * p2 + w3 * p3, t, start, doc_start, doc_end, own_end,
              document, dx_row, d, channels, known, WIDTH)  # fmt: skip
        xa, xb, xc = x3, x2, x1
        pa, pb, pc = p3, p2, p1

    mine = partials + run.to(tl.int64) * 5 * d + channels
    tl.store(mine, s0, mask=known)
    tl.store(mine + d, s1, mask=known)
    tl.store(mine + 2 * d, s2, mask=known)
    tl.store(mine + 3 * d, s3, mask=known)
    tl.store(mine + 4 * d, s_bias, mask=known)
    if arrives_last(arrivals + tl.program_id(1), n_runs):
        for back in tl.static_range(WIDTH):
            total = _sum_runs(partials + back * d, d, n_runs, channels, known, BLOCK_D)
            tl.store(dweight + channels * WIDTH + (WIDTH - 1 - back), total.to(dweight.dtype.element_ty), mask=known)
        if dbias is not None:
            total = _sum_runs(partials + 4 * d, d, n_runs, channels, known, BLOCK_D)
            tl.store(dbias + channels, total.to(dbias.dtype.element_ty), mask=known)


@triton.jit
def _sum_runs(partials, d, n_runs, channels, known, BLOCK_D: tl.constexpr):
    """Sum one of the five lines over all runs, in a fixed order."""
    total = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, n_runs, 16):
        runs = first + tl.arange(0, 16)
        rows = partials + runs.to(tl.int64)[:, None] * 5 * d + channels[None, :]
        total += tl.sum(
            tl.load(rows, mask=(runs < n_runs)[:, None] & known[None, :], other=0.0, cache_modifier=".cg"), axis=0
        )
    return total


def run_forward(x, weight, bias, initial, y, table, silu: bool, final=None) -> None:
    """y (b*l, d) rows from x (b*l, d) rows; `table` cuts documents into runs of FORWARD_RUN tokens."""
    d, width = weight.shape
    launch(
        conv_forward_kernel, (table.n_chunks, triton.cdiv(d, FORWARD_CHANNELS)),
        x, weight, bias, initial, y, final, table.starts, table.lengths, table.documents, table.first_chunks,
        x.stride(0), y.stride(0), d,
        WIDTH=width, RUN=FORWARD_RUN, BLOCK_D=FORWARD_CHANNELS, SILU=silu, num_warps=FORWARD_WARPS,
    )  # fmt: skip


def run_backward(x, weight, bias, initial, dy, dx, table, silu: bool, dfinal=None, dinitial=None):
    """Write dx (b*l, d) rows and return the gradients of weight and bias; `table` has runs of BACKWARD_RUN tokens."""
    d, width = weight.shape
    dweight = torch.empty(weight.shape, dtype=weight.dtype, device=x.device)
    dbias = None if bias is None else torch.empty(bias.shape, dtype=bias.dtype, device=x.device)
    partials = torch.empty(table.n_chunks, 5, d, dtype=torch.float32, device=x.device)
    launch(
        conv_backward_kernel, (table.n_chunks, triton.cdiv(d, BACKWARD_CHANNELS)),
        x, weight, bias, initial, dy, dfinal, dx, dweight, dbias, dinitial, partials, arrival_counters(x),
        table.starts, table.lengths, table.documents, table.first_chunks,
        x.stride(0), dy.stride(0), dx.stride(0), d, table.n_chunks,
        WIDTH=width, BLOCK_D=BACKWARD_CHANNELS, SILU=silu, num_warps=BACKWARD_WARPS,
    )  # fmt: skip
    return dweight, dbias


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, initial_states, cu_seqlens, silu, want_final):
        b, length, d = x.shape
        table = chunk_table(b, length, cu_seqlens, FORWARD_RUN, x.device)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        final = None
        if want_final:
            final = torch.empty(table.n_documents, d, weight.shape[1] - 1, dtype=x.dtype, device=x.device)
        initial = None if initial_states is None else initial_states.contiguous()
        run_forward(as_rows(x), weight.contiguous(), bias, initial, as_rows(y), table, silu, final)
        ctx.save_for_backward(x, weight, bias, initial_states, cu_seqlens)
        ctx.silu = silu
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dfinal):
        x, weight, bias, initial, cu_seqlens = ctx.saved_tensors
        table = chunk_table(x.shape[0], x.shape[1], cu_seqlens, BACKWARD_RUN, x.device)
        dy = torch.zeros_like(x) if dy is None else dy
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        dinitial = None if initial is None else torch.empty(initial.shape, dtype=initial.dtype, device=x.device)
        dfinal = None if dfinal is None else dfinal.contiguous()
        initial = None if initial is None else initial.contiguous()
        dweight, dbias = run_backward(
            as_rows(x), weight.contiguous(), bias, initial, as_rows(dy), as_rows(dx), table, ctx.silu, dfinal, dinitial
        )
        return dx, dweight, dbias, dinitial, None, None, None


def check_width(width: int) -> None:
    """Raise InputError for a filter wider than the kernels' four taps."""
    if misfit := find_width_misfit(width):
        raise InputError(f"causal_conv1d: {misfit}")


def causal_conv1d_triton(
    x, weight, bias=None, *, activation="silu", initial_states=None, cu_seqlens=None, return_final_states=False
):
    """See `promptcot_mamba.ops.causal_conv1d.causal_conv1d`. Computes in fp32; filters 2 to 4 wide."""
    if x.dtype == torch.float64:
        raise InputError("causal_conv1d: the triton backend takes float16, bfloat16 or float32, found x of float64")
    check_width(weight.shape[1])
    y, final = _Conv.apply(x, weight, bias, initial_states, cu_seqlens, activation == "silu", return_final_states)
    return (y, final) if return_final_states else y
