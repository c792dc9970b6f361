"""`ssd`: the state space dual of Mamba-2 (Dao and Gu, arXiv 2405.21060), over whole rows or packed documents.

    state_t = exp(dt_t A) state_(t-1) + dt_t x_t B_t^T        (h, p, n)
    y_t     = state_t C_t + D x_t                             (h, p), times silu(z_t) where z is given

Head `i` reads the `B` and `C` of group `i // (h / g)`.
"""

import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.backends import choose_backend
from promptcot_mamba.ops.checks import check_documents, check_float, check_float_shape, check_shape
from promptcot_mamba.ops.ssd.triton_configs import find_misfit

SSD_BACKENDS = {
    "reference": "promptcot_mamba.ops.ssd.reference:ssd_reference",
    "chunked": "promptcot_mamba.ops.ssd.chunked:ssd_chunked",
    "triton": "promptcot_mamba.ops.ssd.triton_kernels:ssd_triton@cuda",
    "mamba_ssm": "promptcot_mamba.ops.ssd.mamba_ssm_adapter:ssd_mamba_ssm@cuda",
}


def ssd(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    *,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    dt_softplus: bool = False,
    chunk_size: int | None = None,
    initial_states: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    return_final_states: bool = False,
    backend: str | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Run the recurrence over every sequence of `x`.

    Args:
        x: (b, l, h, p).
        dt: (b, l, h), step sizes; `dt_bias` (h) is added, then softplus taken if `dt_softplus`.
        A: (h), negative.
        B, C: (b, l, g, n), h a multiple of g.
        D: (h), the skip.
        z: (b, l, h, p), the gate.
        chunk_size: tokens handled as one matrix product; None lets the backend choose. Results do not depend on it.
        initial_states: (b or docs, h, p, n); zeros where None.
        cu_seqlens: (docs+1) int32 or int64, needs b == 1: states restart at every document.
        backend: a name of SSD_BACKENDS; None chooses from the device.

    Returns:
        y (b, l, h, p) in the dtype of x, and with `return_final_states` the states after each sequence's last
        token, fp32 (fp64 for fp64 inputs) (b or docs, h, p, n). Everything is differentiable.

    Raises:
        InputError: for a shape, dtype, device or `cu_seqlens` that does not fit, naming the argument.
    """
    check_float("ssd", "x", x)
    check_shape("ssd", "x", x, (None,) * 4, "(b, l, h, p)")
    b, length, h, p = x.shape
    check_float_shape("ssd", "B", B, x, (b, length, None, None), "(b, l, g, n)")
    g, n = B.shape[2:]
    if g < 1 or h % g:
        raise InputError(f"ssd: heads must be a multiple of groups, found h={h} (x) and g={g} (B)")
    check_float_shape("ssd", "C", C, x, (b, length, g, n), "(b, l, g, n)")
    check_float_shape("ssd", "dt", dt, x, (b, length, h), "(b, l, h)")
    check_float_shape("ssd", "A", A, x, (h,), "(h)")
    if D is not None:
        check_float_shape("ssd", "D", D, x, (h,), "(h)")
    if z is not None:
        check_float_shape("ssd", "z", z, x, (b, length, h, p), "(b, l, h, p)")
    if dt_bias is not None:
        check_float_shape("ssd", "dt_bias", dt_bias, x, (h,), "(h)")
    sequences = check_documents("ssd", cu_seqlens, b, length)
    if initial_states is not None:
        check_float_shape("ssd", "initial_states", initial_states, x, (sequences, h, p, n), "(b or docs, h, p, n)")
    if chunk_size is not None and chunk_size < 1:
        raise InputError(f"ssd: chunk_size must be at least 1, found {chunk_size}")
    run = choose_backend(
        "ssd", SSD_BACKENDS, backend, x, torch_form="chunked", misfit=lambda: find_misfit(x.dtype, x.device, p, n)
    )
    return run(
        x, dt, A, B, C, D=D, z=z, dt_bias=dt_bias, dt_softplus=dt_softplus, chunk_size=chunk_size,
        initial_states=initial_states, cu_seqlens=cu_seqlens, return_final_states=return_final_states,
    )  # fmt: skip
