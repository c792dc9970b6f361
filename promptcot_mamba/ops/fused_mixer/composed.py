"""The fused mixer put together from the other ops: as its definition, and recomputed in the backward pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from promptcot_mamba.ops.causal_conv1d import causal_conv1d
from promptcot_mamba.ops.gated_rms_norm import gated_rms_norm
from promptcot_mamba.ops.ssd import ssd


def _compose(
    backend, zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, n_groups, head_dim, state_size,
    chunk_size, eps, cu_seqlens, dt_limit,
):  # fmt: skip
    h = A_log.shape[0]
    d_inner, shared = h * head_dim, n_groups * state_size
    dtype = torch.float64 if zxbcdt.dtype == torch.float64 else torch.float32
    z, xBC, dt = zxbcdt.split([d_inner, d_inner + 2 * shared, h], dim=-1)
    xBC = causal_conv1d(xBC, conv_weight, conv_bias, cu_seqlens=cu_seqlens, backend=backend)
    x, B, C = xBC.split([d_inner, shared, shared], dim=-1)
    dt = F.softplus(dt.to(dtype) + dt_bias.to(dtype)).clamp(*dt_limit)
    y = ssd(
        x.unflatten(-1, (h, head_dim)), dt, -torch.exp(A_log.to(dtype)), B.unflatten(-1, (n_groups, state_size)),
        C.unflatten(-1, (n_groups, state_size)), D=D, chunk_size=chunk_size, cu_seqlens=cu_seqlens, backend=backend,
    )  # fmt: skip
    normed = gated_rms_norm(y.flatten(2), z, norm_weight, eps=eps, group_size=d_inner // n_groups, backend=backend)
    return normed.to(zxbcdt.dtype)


def fused_mixer_reference(zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, **settings):
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`; the reference of every op it is made of."""
    return _compose("reference", zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, **settings)


def fused_mixer_recompute(zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, **settings):
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`."""

    def run(*tensors):
        return _compose(None, *tensors, **settings)

    return checkpoint(run, zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, use_reentrant=False)
