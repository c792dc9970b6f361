"""`fused_mixer`: everything between a mixer's two projections as one differentiable step that keeps its inputs only.

    z, xBC, dt = split(zxbcdt);  x, B, C = split(silu(conv(xBC)))
    y = gated_rms_norm(ssd(x, softplus(dt + dt_bias), -exp(A_log), B, C, D), z)

Convolution, SSD and norm cost by the bytes they move, not by their arithmetic: recomputing them in the backward
pass is far cheaper than keeping what lies between. Where the layer itself is recomputed (`keep=True`) it is kept: the
second forward would otherwise be followed by a third.

The forms of our own are written as one; where one of the ops inside is chosen by name (`--ops ssd=mamba_ssm`), the
mixer is composed of the three ops as chosen.
"""

import math

import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.backends import COMPOSED, MIXER_OPS, choose_backend, get_table, wanted_backend
from promptcot_mamba.ops.causal_conv1d import find_width_misfit
from promptcot_mamba.ops.checks import check_documents, check_float, check_float_shape, check_shape
from promptcot_mamba.ops.fused_mixer.staged import Neighbours
from promptcot_mamba.ops.native import runs_native
from promptcot_mamba.ops.ssd.triton_configs import find_misfit

FUSED_MIXER_BACKENDS = {
    "reference": "promptcot_mamba.ops.fused_mixer.composed:fused_mixer_reference",
    "recompute": "promptcot_mamba.ops.fused_mixer.composed:fused_mixer_recompute",
    "native": "promptcot_mamba.ops.fused_mixer.native:fused_mixer_native@cpu",
    "triton": "promptcot_mamba.ops.fused_mixer.triton_kernels:fused_mixer_triton@cuda",
}
NO_LIMIT = (0.0, math.inf)


def fused_mixer(
    zxbcdt: torch.Tensor,
    conv_weight: torch.Tensor,
    conv_bias: torch.Tensor | None,
    A_log: torch.Tensor,
    D: torch.Tensor,
    dt_bias: torch.Tensor,
    norm_weight: torch.Tensor,
    *,
    n_groups: int,
    head_dim: int,
    state_size: int,
    chunk_size: int | None = None,
    eps: float = 1e-5,
    cu_seqlens: torch.Tensor | None = None,
    dt_limit: tuple[float, float] = NO_LIMIT,
    keep: bool = False,
    neighbours: Neighbours | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """From a mixer's input projection to its output projection.

    Args:
        zxbcdt: (b, l, 2 * d_inner + 2 * g * n + h), the input projection: gate, x, B, C, dt side by side.
        conv_weight: (d_inner + 2 * g * n, w). conv_bias: (d_inner + 2 * g * n) or None.
        A_log, D, dt_bias: (h). norm_weight: (d_inner), normalised in g groups.
        chunk_size: None lets the backend choose; results do not depend on it.
        cu_seqlens: (docs+1) int32 or int64, needs b == 1.
        dt_limit: dt is clamped to it after the softplus.
        keep: hold what lies between for the backward pass, for callers that recompute the whole layer themselves.
        neighbours: where the row is one slice of a longer one (`ops.sequence_parallel`): how to reach the others.

    Returns:
        (b, l, d_inner) in the dtype of zxbcdt.

    Raises:
        InputError: for a shape, dtype, device or `cu_seqlens` that does not fit, naming the argument.
    """
    op = "fused_mixer"
    check_float(op, "zxbcdt", zxbcdt)
    check_shape(op, "zxbcdt", zxbcdt, (None,) * 3, "(b, l, 2 * d_inner + 2 * g * n + h)")
    check_float_shape(op, "A_log", A_log, zxbcdt, (None,), "(h)")
    h = A_log.shape[0]
    if n_groups < 1 or h % n_groups:
        raise InputError(f"{op}: heads must be a multiple of n_groups, found h={h} (A_log) and n_groups={n_groups}")
    d_inner, shared = h * head_dim, 2 * n_groups * state_size
    b, length, width = zxbcdt.shape
    if width != 2 * d_inner + shared + h:
        parts = f"2 * {d_inner} + 2 * {n_groups} * {state_size} + {h} = {2 * d_inner + shared + h}"
        raise InputError(f"{op}: zxbcdt must be {parts} wide, found {width}")
    check_float_shape(op, "conv_weight", conv_weight, zxbcdt, (d_inner + shared, None), "(d_inner + 2 * g * n, w)")
    if conv_bias is not None:
        check_float_shape(op, "conv_bias", conv_bias, zxbcdt, (d_inner + shared,), "(d_inner + 2 * g * n)")
    check_float_shape(op, "D", D, zxbcdt, (h,), "(h)")
    check_float_shape(op, "dt_bias", dt_bias, zxbcdt, (h,), "(h)")
    check_float_shape(op, "norm_weight", norm_weight, zxbcdt, (d_inner,), "(d_inner)")
    if chunk_size is not None and chunk_size < 1:
        raise InputError(f"{op}: chunk_size must be at least 1, found {chunk_size}")
    check_documents(op, cu_seqlens, b, length)
    torch_form = "native" if runs_native(zxbcdt) else COMPOSED
    asked = backend or wanted_backend(op, FUSED_MIXER_BACKENDS)
    if asked is None and any(wanted_backend(inner, get_table(inner)) for inner in MIXER_OPS):
        backend = COMPOSED
    run = choose_backend(
        op, FUSED_MIXER_BACKENDS, backend, zxbcdt, torch_form=torch_form,
        misfit=lambda: (
            find_width_misfit(conv_weight.shape[1])
            or find_misfit(zxbcdt.dtype, zxbcdt.device, head_dim, state_size)
        ),
    )  # fmt: skip
    if neighbours is not None and cu_seqlens is None:
        raise InputError(f"{op}: a slice of a row has neighbours only with cu_seqlens")
    told = {} if neighbours is None else {"neighbours": neighbours}  # a form without `neighbours` takes whole rows only
    return run(
        zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, n_groups=n_groups, head_dim=head_dim,
        state_size=state_size, chunk_size=chunk_size, eps=eps, cu_seqlens=cu_seqlens, dt_limit=tuple(dt_limit),
        keep=keep, **told,
    )  # fmt: skip
