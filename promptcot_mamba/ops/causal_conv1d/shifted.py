"""The convolution as `w` shifted products over one long line of tokens, gradients by hand.

Documents are laid end to end, each preceded by its own w-1 rows of history (`initial_states` or zeros). A tap that
reaches over a document's start then reads that history and never the neighbour, in both directions.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from promptcot_mamba.ops.packing import boundaries


@dataclass(frozen=True, eq=False)
class Line:
    """Where tokens and history stand in the line of `n_rows` rows."""

    n_rows: int
    tokens: torch.Tensor  # (b*l) the row of each token
    history: torch.Tensor  # (docs, w-1) the rows before each document
    finals: torch.Tensor  # (docs, w-1) the last rows of each document


def make_line(batch: int, length: int, width: int, cu_seqlens: torch.Tensor | None, device: torch.device) -> Line:
    """Lay out `batch` sequences of one length, or the documents of a packed row."""
    marks = list(range(0, (batch + 1) * length, length)) if cu_seqlens is None else boundaries(cu_seqlens)
    starts = torch.tensor(marks[:-1])
    ends = torch.tensor(marks[1:])
    documents = torch.arange(len(starts))
    shift = (documents + 1) * (width - 1)  # rows of history up to and including each document's
    taps = torch.arange(width - 1)
    tokens = torch.arange(marks[-1]) + shift.repeat_interleave(ends - starts)
    history = (starts + shift)[:, None] - (width - 1) + taps
    finals = (ends + shift)[:, None] - (width - 1) + taps
    n_rows = marks[-1] + len(starts) * (width - 1)
    return Line(n_rows, tokens.to(device), history.to(device), finals.to(device))


def _fill(line: Line, x: torch.Tensor, initial_states: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    rows = x.new_zeros(line.n_rows, x.shape[-1], dtype=dtype)
    rows[line.tokens] = x.flatten(0, 1).to(dtype)
    if initial_states is not None:
        rows[line.history] = initial_states.transpose(1, 2).to(dtype)
    return rows


def _filter(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Every full window of the line: (rows - w + 1, d), the window ending at row w-1 first."""
    width = weight.shape[1]
    n_windows = rows.shape[0] - width + 1
    out = rows[:n_windows] * weight[:, 0]
    for tap in range(1, width):
        out.addcmul_(rows[tap : tap + n_windows], weight[:, tap])
    return out if bias is None else out.add_(bias)


class _ShiftedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, line: Line, activation, x, weight, bias, initial_states):
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        ctx.save_for_backward(x, weight, bias, initial_states)
        ctx.line, ctx.activation, ctx.dtype = line, activation, dtype
        rows = _fill(line, x, initial_states, dtype)
        y = _filter(rows, weight.to(dtype), None if bias is None else bias.to(dtype))
        y = y[line.tokens - (weight.shape[1] - 1)]
        if activation == "silu":
            y = F.silu(y, inplace=True)
        finals = rows[line.finals].transpose(1, 2)
        return y.to(x.dtype).view_as(x), finals.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dfinals):
        x, weight, bias, initial_states = ctx.saved_tensors
        line, dtype = ctx.line, ctx.dtype
        width = weight.shape[1]
        rows, taps = _fill(line, x, initial_states, dtype), weight.to(dtype)
        windows = line.tokens - (width - 1)
        dpre = dy.flatten(0, 1).to(dtype)
        if ctx.activation == "silu":
            pre = _filter(rows, taps, None if bias is None else bias.to(dtype))[windows]
            dpre = torch.ops.aten.silu_backward(dpre, pre)
        dout = rows.new_zeros(line.n_rows - width + 1, x.shape[-1])
        dout[windows] = dpre
        drows = torch.zeros_like(rows)
        dweight = torch.empty_like(taps)
        for tap in range(width):
            seen = slice(tap, tap + dout.shape[0])
            drows[seen].addcmul_(dout, taps[:, tap])
            dweight[:, tap] = (dout * rows[seen]).sum(0)
        if dfinals is not None:
            drows.index_add_(0, line.finals.flatten(), dfinals.transpose(1, 2).flatten(0, 1).to(dtype))
        dx = drows[line.tokens].to(x.dtype).view_as(x)
        dbias = None if bias is None else dpre.sum(0).to(bias.dtype)
        dinitial = None
        if initial_states is not None:
            dinitial = drows[line.history].transpose(1, 2).to(initial_states.dtype)
        return None, None, dx, dweight.to(weight.dtype), dbias, dinitial


def causal_conv1d_shifted(
    x, weight, bias=None, *, activation="silu", initial_states=None, cu_seqlens=None, return_final_states=False
):
    """See `promptcot_mamba.ops.causal_conv1d.causal_conv1d`. Computes in fp32 (fp64 for fp64 inputs)."""
    line = make_line(x.shape[0], x.shape[1], weight.shape[1], cu_seqlens, x.device)
    y, finals = _ShiftedConv.apply(line, activation, x, weight, bias, initial_states)
    return (y, finals) if return_final_states else y
