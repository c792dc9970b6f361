"""Matrix products of bf16 tensors on CPUs that have no bf16 units: computed in fp32, rounded once.

Without AVX-512 BF16 or AMX torch multiplies bf16 element by element, thirty times slower than fp32. Widening the
operands costs a pass over each, which a product of any size outweighs; sums are fp32 either way.
"""

import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from promptcot_mamba.log import log_once


@cache
def has_bf16_units() -> bool:
    """Whether this CPU multiplies bf16 at least as fast as fp32, as far as torch may use what it has."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def computes_wide(tensor: torch.Tensor) -> bool:
    """Whether products of this tensor are computed in fp32 here; said once in the log."""
    if tensor.dtype != torch.bfloat16 or tensor.device.type != "cpu" or has_bf16_units():
        return False
    log_once("bf16 on a CPU without bf16 units: products are computed in fp32 and rounded to bf16")
    return True


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        with torch.autocast("cpu", enabled=False):
            out = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            rows = dout.flatten(0, -2).float()
            dx = (rows @ weight.float()).to(x.dtype).view_as(x) if wants_x else None
            dweight = (rows.mT @ x.flatten(0, -2).float()).to(weight.dtype) if wants_weight else None
            dbias = rows.sum(0).to(dout.dtype) if wants_bias else None
        return dx, dweight, dbias


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (..., d), weight (v, d), bias (v) or None -> (..., v), as `F.linear` and under autocast as there."""
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if x.dtype == weight.dtype and x.dim() > 1 and computes_wide(x):
        return _WideLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear`, fast in bf16 on CPUs without bf16 units too."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return linear(hidden, self.weight, self.bias)
