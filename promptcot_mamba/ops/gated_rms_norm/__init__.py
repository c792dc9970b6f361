"""`gated_rms_norm`: the norm between SSD and output projection, over groups of channels.

`transformers`' Mamba-2 normalises over the whole inner width, mamba-ssm and vLLM over each of the model's groups;
the released 7B weights (8 groups) were trained with the grouped form, which is the one here.
"""

import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.backends import choose_backend
from promptcot_mamba.ops.checks import check_float, check_float_shape

GATED_RMS_NORM_BACKENDS = {
    "reference": "promptcot_mamba.ops.gated_rms_norm.reference:gated_rms_norm_reference",
    "recompute": "promptcot_mamba.ops.gated_rms_norm.recompute:gated_rms_norm_recompute",
    "triton": "promptcot_mamba.ops.gated_rms_norm.triton_kernels:gated_rms_norm_triton@cuda",
}


def gated_rms_norm(
    x: torch.Tensor,
    z: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    eps: float = 1e-5,
    group_size: int | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """u / sqrt(mean(u^2) + eps) * weight with u = x * silu(z), the mean over each `group_size` channels.

    Args:
        x: (..., d). z: like x, or None for a plain RMS norm. weight: (d).
        group_size: divides d; None is d.

    Returns:
        Like x, in the dtype of weight (the residual stream may be wider than the model).

    Raises:
        InputError: for a shape, dtype or device that does not fit, naming the argument.
    """
    check_float("gated_rms_norm", "x", x)
    if x.dim() < 1:
        raise InputError("gated_rms_norm: x must have shape (..., d), found a scalar")
    d = x.shape[-1]
    if z is not None:
        check_float_shape("gated_rms_norm", "z", z, x, tuple(x.shape), "that of x")
    check_float_shape("gated_rms_norm", "weight", weight, x, (d,), "(d)")
    group_size = d if group_size is None else group_size
    if group_size < 1 or d % group_size:
        raise InputError(f"gated_rms_norm: group_size must divide the {d} channels of x, found {group_size}")
    run = choose_backend("gated_rms_norm", GATED_RMS_NORM_BACKENDS, backend, x, torch_form="recompute")
    return run(x, z, weight, eps=eps, group_size=group_size).to(weight.dtype)
