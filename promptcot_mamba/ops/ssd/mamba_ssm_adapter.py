"""mamba-ssm's kernels behind `ssd`'s signature: the peer that ours are timed against.

Read against mamba-ssm 2.3.2. It marks documents by `seq_idx`, honoured in every kernel of its forward and backward
(its own tests cover the forward only), resets states at boundaries, and knows one initial state per row: those of
packed documents are refused here, as are gradients through the packed final states, which it does not propagate.
Importing `mamba_ssm` needs its CUDA build (`selective_scan_cuda`).
"""

import torch
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.packing import seq_idx_from_cu_seqlens

CHUNK_SIZE = 256  # mamba-ssm's default in its Mamba2 module


def ssd_mamba_ssm(
    x, dt, A, B, C, *, D=None, z=None, dt_bias=None, dt_softplus=False, chunk_size=None, initial_states=None,
    cu_seqlens=None, return_final_states=False,
):  # fmt: skip
    """See `promptcot_mamba.ops.ssd.ssd`.

    Raises:
        InputError: with `cu_seqlens`, for `initial_states`, and for final states while gradients are recorded.
    """
    settings = {
        "chunk_size": chunk_size or CHUNK_SIZE, "D": D, "z": z, "dt_bias": dt_bias, "dt_softplus": dt_softplus,
    }  # fmt: skip
    if cu_seqlens is None:
        return mamba_chunk_scan_combined(
            x, dt, A, B, C, initial_states=initial_states, return_final_states=return_final_states, **settings
        )
    if initial_states is not None:
        raise InputError("ssd: the mamba_ssm backend takes no initial_states with cu_seqlens; use backend='triton'")
    settings["seq_idx"] = seq_idx_from_cu_seqlens(cu_seqlens)
    if not return_final_states:
        return mamba_chunk_scan_combined(x, dt, A, B, C, **settings)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, dt, A, B, C)):
        raise InputError(
            "ssd: the mamba_ssm backend has no gradients through the final states of packed documents; "
            "use backend='triton'"
        )
    return mamba_chunk_scan_combined(x, dt, A, B, C, cu_seqlens=cu_seqlens, return_varlen_states=True, **settings)
