"""`linear_cross_entropy`: the head's projection and the loss together, so that all logits never exist at once.

At 20,480 tokens and 32,768 words logits and their gradient would take 5.4 GB in fp32.
"""

import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.backends import choose_backend
from promptcot_mamba.ops.checks import check_float, check_float_shape, check_shape
from promptcot_mamba.records import IGNORE_INDEX

LINEAR_CROSS_ENTROPY_BACKENDS = {
    "reference": "promptcot_mamba.ops.linear_cross_entropy.reference:linear_cross_entropy_reference",
    "chunked": "promptcot_mamba.ops.linear_cross_entropy.chunked:linear_cross_entropy_chunked",
    "triton": "promptcot_mamba.ops.linear_cross_entropy.triton_kernels:linear_cross_entropy_triton@cuda",
}
REDUCTIONS = ("sum", "mean", "none")


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    reduction: str = "sum",
    backend: str | None = None,
) -> torch.Tensor:
    """Cross-entropy of softmax(hidden weight^T) against `labels`, over the tokens whose label is not -100.

    Args:
        hidden: (t, d). weight: (v, d). labels: (t) int64 in [0, v) or -100.
        reduction: "sum", "mean" over labelled tokens (0 where there are none), or "none" (t), zero where ignored.

    Returns:
        The loss in fp32 (fp64 for fp64 inputs).

    Raises:
        InputError: for a shape, dtype, device or label that does not fit, naming the argument.
    """
    check_float("linear_cross_entropy", "hidden", hidden)
    check_shape("linear_cross_entropy", "hidden", hidden, (None, None), "(t, d)")
    t, d = hidden.shape
    check_float_shape("linear_cross_entropy", "weight", weight, hidden, (None, d), "(v, d)")
    check_shape("linear_cross_entropy", "labels", labels, (t,), "(t)")
    if labels.dtype != torch.int64 or labels.device != hidden.device:
        raise InputError(
            f"linear_cross_entropy: labels must be int64 on {hidden.device}, found {labels.dtype} on {labels.device}"
        )
    if reduction not in REDUCTIONS:
        raise InputError(f"linear_cross_entropy: reduction must be one of {', '.join(REDUCTIONS)}, found {reduction!r}")
    if labels.device.type == "cpu" and t:  # on a CUDA device this would wait for it; its kernels assert instead
        labelled = labels[labels != IGNORE_INDEX]
        if labelled.numel() and not 0 <= int(labelled.min()) <= int(labelled.max()) < weight.shape[0]:
            found = f"{int(labelled.min())}..{int(labelled.max())}"
            raise InputError(
                f"linear_cross_entropy: labels must lie in [0, {weight.shape[0]}) or be -100, found {found}"
            )
    table = LINEAR_CROSS_ENTROPY_BACKENDS
    run = choose_backend("linear_cross_entropy", table, backend, hidden, torch_form="chunked")
    # The operands share a dtype already; autocast would give some products another.
    with torch.autocast(hidden.device.type, enabled=False):
        return run(hidden, weight, labels, reduction=reduction)
