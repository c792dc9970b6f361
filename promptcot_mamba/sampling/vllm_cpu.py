"""vLLM's CPU build reads prompts together, and a prompt's last bits depend on those beside it; here they do not.

torch's elementwise operations take the last few numbers of a tensor one by one and the others a vector at a time, and
softplus rounds differently in the two. vLLM applies it to dt of all prompts of a step at once, [tokens, heads]: with
few heads the last tokens are taken one by one, and which those are depends on the step. A logit then moves by 1e-6, and
one sample in a thousand takes another word. Padded to whole vectors, every number is computed alike wherever it stands.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WHOLE_VECTORS = 64  # numbers: torch's loops take two vectors at a time, of at most 16 (AVX-512)


def softplus_alike(x: torch.Tensor) -> torch.Tensor:
    """softplus(x), each number's bits the same whatever stands before or behind it."""
    from torch.nn import functional as F

    padded = F.pad(x.flatten(), (0, -x.numel() % WHOLE_VECTORS))
    return F.softplus(padded)[: x.numel()].view_as(x)


def keep_prompts_apart() -> None:
    """Give vLLM's CPU scan a dt that is through softplus already; a second call in a process changes nothing."""
    from vllm.model_executor.layers.mamba.ops import ssd_combined

    scan = ssd_combined._mamba_chunk_scan_combined_fwd
    if hasattr(scan, "__wrapped__"):
        return

    @functools.wraps(scan)
    def scan_apart(x, dt, *args, dt_bias=None, dt_softplus=False, **kwargs):
        if dt_softplus:
            dt = softplus_alike(dt.float() if dt_bias is None else dt.float() + dt_bias.float())
            dt_bias = None
        return scan(x, dt, *args, dt_bias=dt_bias, dt_softplus=False, **kwargs)

    ssd_combined._mamba_chunk_scan_combined_fwd = scan_apart
