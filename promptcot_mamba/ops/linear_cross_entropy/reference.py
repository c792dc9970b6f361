"""The loss from whole logits: the definition."""

import torch


def linear_cross_entropy_reference(hidden, weight, labels, *, reduction):
    """See `promptcot_mamba.ops.linear_cross_entropy.linear_cross_entropy`."""
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    logits = hidden.to(dtype) @ weight.to(dtype).T  # (t, v)
    labelled = labels != -100
    picked = logits.gather(1, labels.where(labelled, 0)[:, None])[:, 0]
    losses = (logits.logsumexp(1) - picked).where(labelled, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() / (labelled.sum().clamp(min=1) if reduction == "mean" else 1)
