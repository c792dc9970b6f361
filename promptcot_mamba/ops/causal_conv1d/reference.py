"""The convolution's definition, one document and one token at a time."""

import itertools

import torch
import torch.nn.functional as F

from promptcot_mamba.ops.packing import boundaries


def causal_conv1d_reference(
    x, weight, bias=None, *, activation="silu", initial_states=None, cu_seqlens=None, return_final_states=False
):
    """See `promptcot_mamba.ops.causal_conv1d.causal_conv1d`; computes in fp32, or fp64 for fp64 inputs."""
    out_dtype = x.dtype
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, weight = x.to(dtype), weight.to(dtype)
    b, length, d = x.shape
    width = weight.shape[1]
    rows, finals = [], []
    marks = [0, length] if cu_seqlens is None else boundaries(cu_seqlens)
    for document, (start, end) in enumerate(itertools.pairwise(marks)):
        before = x.new_zeros(b, d, width - 1)
        if initial_states is not None:
            before = initial_states.to(dtype)
            before = before if cu_seqlens is None else before[document : document + 1]
        line = torch.cat([before.transpose(1, 2), x[:, start:end]], dim=1)  # (b, w-1+l, d)
        for t in range(end - start):
            rows.append((line[:, t : t + width] * weight.T).sum(1))
        finals.append(line[:, end - start :].transpose(1, 2))  # (b, d, w-1)
    y = torch.stack(rows, dim=1)
    if bias is not None:
        y = y + bias.to(dtype)
    if activation == "silu":
        y = F.silu(y)
    y = y.to(out_dtype)
    return (y, torch.cat(finals).to(out_dtype)) if return_final_states else y
