"""vLLM's CPU build, where it samples Mamba-2: the same bits whatever is sampled beside a chain, and a quicker top-p.

Prompts are read together, and a prompt's last bits depend on those beside it. torch's elementwise operations take the
last few numbers of a tensor, or of a thread's share of it, one by one and the others a vector at a time, and softplus
rounds differently in the two. vLLM applies it to dt of all prompts of a step at once, [tokens, heads]; a logit then
moves by 1e-6, and one sample in a thousand takes another word. In whole vectors on one thread (`alike`), every number
is computed alike wherever it stands.

For top-p vLLM sorts the vocabulary of each chain, which torch does number by number, with each one's place: 15 % of a
step of 64 chains. Values alone are sorted a vector at a time; what is kept is the same.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

WHOLE_VECTORS = 64  # numbers: torch's loops take two vectors at a time, of at most 16 (AVX-512)
ONE_THREAD = 32768 - WHOLE_VECTORS  # numbers that torch does not share out among threads


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
    from vllm.model_executor.layers.mamba.ops import ssd_combined
    from vllm.v1.sample.ops import topk_topp_sampler

    _replace(ssd_combined, "_mamba_chunk_scan_combined_fwd", _scan_apart)
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


def _sort_values(keep, logits, k, p, *args, **kwargs):
    """`keep_nucleus` where top-p alone is asked for."""
    if k is None and p is not None and str(logits.dtype) == "torch.float32":
        kept = keep_nucleus(logits, p)
        if kept is not None:
            return kept
    return keep(logits, k, p, *args, **kwargs)
