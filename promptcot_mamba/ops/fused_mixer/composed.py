"""The fused mixer put together from the other ops: as its definition, and recomputed in the backward pass."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from promptcot_mamba.log import log_once
from promptcot_mamba.ops.backends import MIXER_OPS, get_table, wanted_backend
from promptcot_mamba.ops.causal_conv1d import causal_conv1d
from promptcot_mamba.ops.gated_rms_norm import gated_rms_norm
from promptcot_mamba.ops.ssd import ssd


def _compose(
    backends, zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, n_groups, head_dim, state_size,
    chunk_size, eps, cu_seqlens, dt_limit,
):  # fmt: skip
    """`backends`: the name each op runs on, None where it chooses."""
    h = A_log.shape[0]
    d_inner, shared = h * head_dim, n_groups * state_size
    dtype = torch.float64 if zxbcdt.dtype == torch.float64 else torch.float32
    z, xBC, dt = zxbcdt.split([d_inner, d_inner + 2 * shared, h], dim=-1)
    convolved = causal_conv1d(xBC, conv_weight, conv_bias, cu_seqlens=cu_seqlens, backend=backends["causal_conv1d"])
    x, B, C = cast(torch.Tensor, convolved).split([d_inner, shared, shared], dim=-1)
    dt = F.softplus(dt.to(dtype) + dt_bias.to(dtype)).clamp(*dt_limit)
    y = ssd(
        x.unflatten(-1, (h, head_dim)), dt, -torch.exp(A_log.to(dtype)), B.unflatten(-1, (n_groups, state_size)),
        C.unflatten(-1, (n_groups, state_size)), D=D, chunk_size=chunk_size, cu_seqlens=cu_seqlens,
        backend=backends["ssd"],
    )  # fmt: skip
    normed = gated_rms_norm(
        cast(torch.Tensor, y).flatten(2), z, norm_weight, eps=eps, group_size=d_inner // n_groups,
        backend=backends["gated_rms_norm"],
    )  # fmt: skip
    return normed.to(zxbcdt.dtype)


def fused_mixer_reference(
    zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, *, keep=False, **settings
):  # fmt: skip
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`; the reference of every op it is made of. Keeps everything."""
    backends = dict.fromkeys(MIXER_OPS, "reference")
    return _compose(backends, zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, **settings)


def fused_mixer_recompute(zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, *, keep=False, **settings):
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`."""
    # Asked now: the backward may run when `prefer_backend` is over, and must repeat what the forward did.
    backends = {op: wanted_backend(op, get_table(op)) for op in MIXER_OPS}
    asked = [f"{op}={name}" for op, name in backends.items() if name]
    if asked:
        log_once(f"fused_mixer: composed of its ops on {zxbcdt.device.type}, as chosen: {' '.join(asked)}")

    def run(*tensors):
        return _compose(backends, *tensors, **settings)

    tensors = (zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight)
    return run(*tensors) if keep else checkpoint(run, *tensors, use_reentrant=False)
