"""The loss over slices of the labelled rows: logits by cuBLAS, the softmax and its gradient by one kernel, in place.

A slice's logits live in one buffer in the dtype of `hidden`. The kernel reads each row of it twice, once for the
softmax's statistics and once, out of the L2 cache, to write the gradient over the logits; two more matrix products
turn that into the gradients of hidden and weight. As in the chunked form this happens in the forward pass for summed
losses, while per-token losses, whose scale is not known yet, recompute their logits in the backward.
"""

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.triton_common import LOG2E, launch

IGNORE_INDEX = -100
LOGITS_BYTES = 256 * 2**20  # of one slice: large products, and 1/5 of the 1.3 GB that 20,480 x 32,768 would take
BLOCK, WARPS = 2048, 8


@triton.jit
def cross_entropy_kernel(logits, labels, losses, scales, row_stride, n_words, BLOCK: tl.constexpr):
    """losses (r) fp32; with `scales` (r) the logits (r, v) become scale * (softmax - onehot). Grid: (r,)."""
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * row_stride
    label = tl.load(labels + row)
    words = tl.arange(0, BLOCK)
    # One maximum and one sum a lane; they meet after the loop.
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, n_words, BLOCK):
        values = tl.load(line + first + words, mask=first + words < n_words, other=float("-inf")).to(tl.float32)
        raised = tl.maximum(tl.maximum(largest, values), -1e30)
        total = total * tl.exp2((largest - raised) * LOG2E) + tl.exp2((values - raised) * LOG2E)
        largest = raised
    top = tl.max(largest, axis=0)
    total_all = tl.sum(total * tl.exp2((largest - top) * LOG2E), axis=0)
    log_total = top + tl.log2(total_all) / LOG2E
    known = (label >= 0) & (label < n_words)  # any other label makes the loss NaN rather than read past the row
    tl.store(losses + row, log_total - tl.load(line + label, mask=known, other=float("nan")).to(tl.float32))
    if scales is not None:
        tl.debug_barrier()  # the label's logit is read before its place is written
        scale = tl.load(scales + row)
        for first in range(0, n_words, BLOCK):
            here = first + words
            values = tl.load(line + here, mask=here < n_words, other=float("-inf")).to(tl.float32)
            grad = tl.exp2((values - log_total) * LOG2E) - tl.where(here == label, 1.0, 0.0)
            tl.store(line + here, (scale * grad).to(logits.dtype.element_ty), mask=here < n_words)


def launch_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor, scales: torch.Tensor | None
) -> None:
    """Fill losses (r) from logits (r, v) and labels (r); with `scales` (r) the logits become their own gradient."""
    rows, words = logits.shape
    launch(cross_entropy_kernel, (rows,), logits, labels, losses, scales, logits.stride(0), words,
           BLOCK=min(BLOCK, triton.next_power_of_2(words)), num_warps=WARPS)  # fmt: skip


def _slices(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor):
    """Index tensors of labelled rows, so many at once that their logits take LOGITS_BYTES."""
    rows_at_once = max(64, LOGITS_BYTES // (hidden.element_size() * weight.shape[0]))
    return (labels != IGNORE_INDEX).nonzero()[:, 0].split(rows_at_once)


def _gradients(hidden, weight, labels, scales):
    """Losses (t) fp32, dhidden (t, d) and dweight (v, d) fp32 of sum(scales * losses)."""
    losses = torch.zeros(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    dhidden = torch.zeros_like(hidden)
    dweight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
    for rows in _slices(hidden, weight, labels):
        seen, found = hidden[rows], torch.empty(rows.shape, dtype=torch.float32, device=hidden.device)
        logits = seen @ weight.T
        launch_cross_entropy(logits, labels[rows], found, scales[rows])
        losses[rows] = found
        dhidden[rows] = logits @ weight
        dweight += logits.T @ seen
    return losses, dhidden, dweight


def _losses(hidden, weight, labels):
    losses = torch.zeros(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    for rows in _slices(hidden, weight, labels):
        found = torch.empty(rows.shape, dtype=torch.float32, device=hidden.device)
        launch_cross_entropy(hidden[rows] @ weight.T, labels[rows], found, None)
        losses[rows] = found
    return losses


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels):
        if not any(ctx.needs_input_grad):
            return _losses(hidden, weight, labels).sum()
        ones = torch.ones(labels.shape, dtype=torch.float32, device=labels.device)
        losses, dhidden, dweight = _gradients(hidden, weight, labels, ones)
        ctx.save_for_backward(dhidden, dweight.to(weight.dtype))
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        dhidden, dweight = ctx.saved_tensors
        return dhidden * dloss, dweight * dloss, None


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels):
        ctx.save_for_backward(hidden, weight, labels)
        return _losses(hidden, weight, labels)

    @staticmethod
    @once_differentiable
    def backward(ctx, dlosses):
        hidden, weight, labels = ctx.saved_tensors
        _, dhidden, dweight = _gradients(hidden, weight, labels, dlosses.contiguous())
        return dhidden, dweight.to(weight.dtype), None


def linear_cross_entropy_triton(hidden, weight, labels, *, reduction):
    """See `promptcot_mamba.ops.linear_cross_entropy.linear_cross_entropy`."""
    if hidden.dtype == torch.float64:
        raise InputError("linear_cross_entropy: the triton backend takes float16, bfloat16 or float32, "
                         "found hidden of float64")  # fmt: skip
    if reduction == "none":
        return _TokenLosses.apply(hidden, weight, labels)
    loss = _SummedLoss.apply(hidden, weight, labels)
    return loss / (labels != IGNORE_INDEX).sum().clamp(min=1) if reduction == "mean" else loss
