"""The grouped gated norm's formula."""

import torch
import torch.nn.functional as F


def gated_rms_norm_reference(x, z, weight, *, eps, group_size):
    """See `promptcot_mamba.ops.gated_rms_norm.gated_rms_norm`; computes in fp32, or fp64 for fp64 inputs."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    u = x.to(dtype)
    if z is not None:
        u = u * F.silu(z.to(dtype))
    groups = u.unflatten(-1, (-1, group_size))
    normed = groups * torch.rsqrt(groups.pow(2).mean(-1, keepdim=True) + eps)
    return (normed.flatten(-2) * weight.to(dtype)).to(weight.dtype)
