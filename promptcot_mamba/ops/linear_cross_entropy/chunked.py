"""The loss over a few thousand logits rows at a time, unlabelled tokens left out.

For a summed loss the gradients of a slice are made while its logits exist, in the forward pass, and scaled in the
backward: three matrix products in all instead of four. Per-token losses cannot know their scale yet, so there the
backward recomputes the logits.
"""

import torch
from torch.autograd.function import once_differentiable

from promptcot_mamba.ops.products import computes_wide

LOGITS_BYTES = 64 * 2**20  # fp32 logits held at once: large enough for full-speed products


def _rows_at_once(vocabulary: int) -> int:
    return max(64, LOGITS_BYTES // (4 * vocabulary))


def _slice_loss(hidden, weight, labels, dtype):
    """Losses (r) and the softmax (r, v) of one slice, the softmax in place of its logits."""
    logits = (hidden @ weight.T).to(dtype)  # (r, v)
    largest = logits.amax(1, keepdim=True)
    picked = logits.gather(1, labels[:, None])
    logits.sub_(largest).exp_()
    total = logits.sum(1, keepdim=True)
    losses = (total.log() + largest - picked)[:, 0]
    return losses, logits.div_(total)


def _slice_gradients(probabilities, hidden, weight, labels, scale):
    """Gradients of sum(scale * loss) by hidden and weight; `probabilities` is overwritten by those of the logits."""
    probabilities[torch.arange(len(labels), device=labels.device), labels] -= 1
    if scale is not None:
        probabilities *= scale[:, None]
    dlogits = probabilities.to(hidden.dtype)
    return dlogits @ weight, dlogits.T @ hidden


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels):
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        wanted = any(ctx.needs_input_grad)
        rows = (labels != -100).nonzero()[:, 0]
        loss = hidden.new_zeros((), dtype=dtype)
        dhidden = torch.zeros_like(hidden) if wanted else None
        dweight = torch.zeros_like(weight, dtype=dtype) if wanted else None
        for part in rows.split(_rows_at_once(weight.shape[0])):
            seen, targets = hidden[part], labels[part]
            losses, probabilities = _slice_loss(seen, weight, targets, dtype)
            loss += losses.sum()
            if dhidden is not None and dweight is not None:
                dseen, dpart = _slice_gradients(probabilities, seen, weight, targets, None)
                dhidden[part] = dseen
                dweight += dpart
        if wanted:
            ctx.save_for_backward(dhidden, dweight)
            ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        dhidden, dweight = ctx.saved_tensors
        return dhidden * dloss.to(dhidden.dtype), (dweight * dloss).to(ctx.weight_dtype), None


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels):
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        ctx.save_for_backward(hidden, weight, labels)
        losses = hidden.new_zeros(hidden.shape[0], dtype=dtype)
        for part in (labels != -100).nonzero()[:, 0].split(_rows_at_once(weight.shape[0])):
            losses[part] = _slice_loss(hidden[part], weight, labels[part], dtype)[0]
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, dlosses):
        hidden, weight, labels = ctx.saved_tensors
        dtype = dlosses.dtype
        dhidden, dweight = torch.zeros_like(hidden), torch.zeros_like(weight, dtype=dtype)
        for part in (labels != -100).nonzero()[:, 0].split(_rows_at_once(weight.shape[0])):
            seen, targets = hidden[part], labels[part]
            _, probabilities = _slice_loss(seen, weight, targets, dtype)
            dseen, dpart = _slice_gradients(probabilities, seen, weight, targets, dlosses[part])
            dhidden[part] = dseen
            dweight += dpart
        return dhidden, dweight.to(weight.dtype), None


def linear_cross_entropy_chunked(hidden, weight, labels, *, reduction):
    """See `promptcot_mamba.ops.linear_cross_entropy.linear_cross_entropy`."""
    if computes_wide(hidden):
        hidden, weight = hidden.float(), weight.float()  # their gradients are rounded on the way back
    if reduction == "none":
        return _TokenLosses.apply(hidden, weight, labels)
    loss = _SummedLoss.apply(hidden, weight, labels)
    return loss / (labels != -100).sum().clamp(min=1) if reduction == "mean" else loss
