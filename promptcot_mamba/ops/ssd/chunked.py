"""The SSD in chunks: matrix products instead of a scan, one autograd function that keeps its inputs only."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from promptcot_mamba.ops.ssd.chunk_math import ChunkedSSD
from promptcot_mamba.ops.ssd.layout import Layout, make_layout


def _to(tensor: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def _evaluate(layout: Layout, dtype: torch.dtype, x, dt, A, B, C, D, initial_states) -> ChunkedSSD:
    cut = [layout.split(tensor.to(dtype)) for tensor in (x, B, C)]
    dt = layout.split_zeroed(dt.to(dtype))
    return ChunkedSSD(cut[0], dt, A.to(dtype), cut[1], cut[2], _to(D, dtype), _to(initial_states, dtype), layout.table)


class _ChunkedSSD(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layout: Layout, x, dt, A, B, C, D, initial_states):
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        run = _evaluate(layout, dtype, x, dt, A, B, C, D, initial_states)
        ctx.save_for_backward(x, dt, A, B, C, D, initial_states)
        ctx.layout, ctx.dtype = layout, dtype
        return layout.join(run.output()).to(x.dtype), run.finals()

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dfinals):
        inputs = ctx.saved_tensors
        layout = ctx.layout
        run = _evaluate(layout, ctx.dtype, *inputs)
        grads = run.gradients(layout.split_zeroed(dy.to(ctx.dtype)), _to(dfinals, ctx.dtype))
        rows = [layout.join(grad) for grad in (grads.x, grads.dt)]
        ordered = (*rows, grads.A, layout.join(grads.B), layout.join(grads.C), grads.D, grads.initial_states)
        cast = [None if grad is None else grad.to(tensor.dtype) for grad, tensor in zip(ordered, inputs, strict=True)]
        return None, *cast


def ssd_chunked(
    x, dt, A, B, C, *, D=None, z=None, dt_bias=None, dt_softplus=False, chunk_size=None, initial_states=None,
    cu_seqlens=None, return_final_states=False,
):  # fmt: skip
    """See `promptcot_mamba.ops.ssd.ssd`. Computes in fp32 (fp64 for fp64 inputs) whatever the inputs are."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    dt = dt.to(dtype)
    if dt_bias is not None:
        dt = dt + dt_bias.to(dtype)
    if dt_softplus:
        dt = F.softplus(dt)
    layout = make_layout(x.shape[0], x.shape[1], cu_seqlens, chunk_size, x.device)
    y, finals = _ChunkedSSD.apply(layout, x, dt, A, B, C, D, initial_states)
    if z is not None:
        y = (y.to(dtype) * F.silu(z.to(dtype))).to(x.dtype)
    return (y, finals) if return_final_states else y
