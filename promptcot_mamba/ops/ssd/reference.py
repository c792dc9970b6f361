"""The SSD's definition, token by token. Slow, plain, and what every other form is compared with."""

import itertools

import torch
import torch.nn.functional as F

from promptcot_mamba.ops.packing import boundaries


def ssd_reference(
    x, dt, A, B, C, *, D=None, z=None, dt_bias=None, dt_softplus=False, chunk_size=None, initial_states=None,
    cu_seqlens=None, return_final_states=False,
):  # fmt: skip
    """See `promptcot_mamba.ops.ssd.ssd`; computes in fp32, or fp64 for fp64 inputs. `chunk_size` is not used."""
    out_dtype = x.dtype
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, dt, A, B, C = (tensor.to(dtype) for tensor in (x, dt, A, B, C))
    if dt_bias is not None:
        dt = dt + dt_bias.to(dtype)
    if dt_softplus:
        dt = F.softplus(dt)
    b, length, h, p = x.shape
    n = B.shape[-1]
    B, C = (tensor.repeat_interleave(h // tensor.shape[2], dim=2) for tensor in (B, C))  # (b, l, h, n)

    rows, finals = [], []
    marks = [0, length] if cu_seqlens is None else boundaries(cu_seqlens)
    for document, (start, end) in enumerate(itertools.pairwise(marks)):
        if initial_states is None:
            state = x.new_zeros(b, h, p, n)
        else:
            state = initial_states.to(dtype)
            state = state if cu_seqlens is None else state[document : document + 1]
        for t in range(start, end):
            decay = torch.exp(dt[:, t] * A)  # (b, h)
            update = torch.einsum("bh,bhp,bhn->bhpn", dt[:, t], x[:, t], B[:, t])
            state = decay[..., None, None] * state + update
            rows.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]))
        finals.append(state)
    y = torch.stack(rows, dim=1)  # (b, l, h, p)
    if D is not None:
        y = y + D.to(dtype)[:, None] * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    y = y.to(out_dtype)
    return (y, torch.cat(finals)) if return_final_states else y
