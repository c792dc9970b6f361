"""The grouped gated norm as one autograd function that keeps its inputs and nothing between."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def _gated(x, z, dtype, group_size):
    """u = x * silu(z) in groups: (..., d / group_size, group_size)."""
    u = x.to(dtype)
    if z is not None:
        u = u * F.silu(z.to(dtype))
    return u.unflatten(-1, (-1, group_size))


class _GatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, z, weight, eps, group_size):
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        ctx.save_for_backward(x, z, weight)
        ctx.dtype, ctx.eps, ctx.group_size = dtype, eps, group_size
        u = _gated(x, z, dtype, group_size)
        scale = torch.rsqrt(u.square().mean(-1, keepdim=True) + eps)
        return (u * scale).flatten(-2).mul_(weight.to(dtype)).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, z, weight = ctx.saved_tensors
        dtype, group_size = ctx.dtype, ctx.group_size
        u = _gated(x, z, dtype, group_size)
        scale = torch.rsqrt(u.square().mean(-1, keepdim=True) + ctx.eps)
        normed = u * scale
        dy = dy.to(dtype)
        dweight = (dy * normed.flatten(-2)).flatten(0, -2).sum(0)
        dnormed = (dy * weight.to(dtype)).unflatten(-1, (-1, group_size))
        du = (dnormed - normed * (dnormed * normed).mean(-1, keepdim=True)).mul_(scale).flatten(-2)
        if z is None:
            return du.to(x.dtype), None, dweight.to(weight.dtype), None, None
        gate = z.to(dtype)
        dz = torch.ops.aten.silu_backward(du * x.to(dtype), gate)
        dx = du.mul_(F.silu(gate))
        return dx.to(x.dtype), dz.to(z.dtype), dweight.to(weight.dtype), None, None


def gated_rms_norm_recompute(x, z, weight, *, eps, group_size):
    """See `promptcot_mamba.ops.gated_rms_norm.gated_rms_norm`."""
    return _GatedRMSNorm.apply(x, z, weight, eps, group_size)
