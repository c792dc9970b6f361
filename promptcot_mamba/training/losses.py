"""The published average: every example's mean loss counts alike, however long it is."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from promptcot_mamba.model import Mamba2ForCausalLM
from promptcot_mamba.ops.linear_cross_entropy import IGNORE_INDEX
from promptcot_mamba.ops.packing import seq_idx_from_cu_seqlens


def example_weights(labels: torch.Tensor, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
    """labels (b, l) -> weights (b, l): 1 / (labelled tokens of the label's document), 0 where there is no label.

    Documents are the rows, or those of `cu_seqlens` (docs + 1) in a packed row.
    """
    labelled = (labels != IGNORE_INDEX).float()
    if cu_seqlens is None:
        return labelled / labelled.sum(1, keepdim=True).clamp(min=1)
    document = seq_idx_from_cu_seqlens(cu_seqlens)[0]
    counts = labelled.new_zeros(len(cu_seqlens) - 1).index_add(0, document, labelled[0])
    return labelled / counts.clamp(min=1)[document]


def weighted_loss(model: Any, inputs: dict[str, Any], weights: torch.Tensor) -> torch.Tensor:
    """The sum of weight x loss over a batch's labels; `weights` (b, l) stands beside `labels`."""
    if isinstance(getattr(model, "module", model), Mamba2ForCausalLM):
        return model(**inputs, loss_weights=weights, use_cache=False, num_items_in_batch=1)["loss"]
    labels = inputs["labels"]
    logits = model(**{key: value for key, value in inputs.items() if key != "labels"}, use_cache=False)["logits"]
    losses = cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none")  # (b, l - 1)
    return (losses * weights[:, 1:]).sum()
