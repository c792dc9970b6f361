"""Matrix products in fp32 on CPUs without AVX-512, by `cpu_product.h`, and the linear layer made of them."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch.autograd.function import once_differentiable

from promptcot_mamba.ops.native import LINEAR_SOURCE, load_library, pointer

SMALLEST = 2**21  # multiplications below which packing costs more than it saves


@cache
def _has_slow_products() -> bool:
    """Whether torch's own products are the slower ones here, and ours could be built."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2" and load_library(LINEAR_SOURCE) is not None


def multiplies_faster(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether x (..., d) weight (v, d)^T is ours to multiply: plain fp32 on such a CPU, and large enough."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= SMALLEST
        and not torch.is_autocast_enabled("cpu")
        and _has_slow_products()
    )


def multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor | None = None, add: bool = False) -> torch.Tensor:
    """a (m, k) times b (k, n), both fp32 with any strides -> out (m, n), rows contiguous; with `add` added to it."""
    (m, k), n = a.shape, b.shape[1]
    out = torch.empty(m, n) if out is None else out
    sizes = [ctypes.c_int64(size) for size in (m, n, k)]
    a_row, a_column, b_row, b_column, row = map(ctypes.c_int64, (*a.stride(), *b.stride(), out.stride(0)))
    load_library(LINEAR_SOURCE).multiply(
        *sizes, pointer(a), a_row, a_column, pointer(b), b_row, b_column, pointer(out), row, ctypes.c_int(add)
    )
    return out


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a (m, k) times b (k, n), by whichever is faster here; no gradients."""
    return multiply(a, b) if multiplies_faster(a, b.mT) else a @ b


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        out = multiply(x.reshape(-1, x.shape[-1]), weight.mT)
        if bias is not None:
            out += bias
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        x, weight = ctx.saved_tensors
        dout = dout.reshape(-1, dout.shape[-1])
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        dx = multiply(dout, weight).view(x.shape) if wants_x else None
        dweight = multiply(dout.mT, x.reshape(-1, x.shape[-1])) if wants_weight else None
        return dx, dweight, dout.sum(0) if wants_bias else None


def linear_native(x, weight, bias=None):
    """See `promptcot_mamba.ops.linear.linear`; fp32 on CPU."""
    return _Linear.apply(x, weight, bias)
