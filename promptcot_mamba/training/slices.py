"""A rank's slice of a packed batch: cut after collation, labels shifted before, so that nothing is lost at a border."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from promptcot_mamba.model.causal_lm import next_token_labels
from promptcot_mamba.ops.linear_cross_entropy import IGNORE_INDEX
from promptcot_mamba.ops.sequence_parallel import slice_bounds, slice_documents
from promptcot_mamba.training.losses import example_weights

Batch = dict[str, Any]


@dataclass(frozen=True)
class SliceCollator:
    """`collate`, and of its packed row the part of slice `index` of `size`. Picklable: data workers run it."""

    collate: Callable[[list[Any]], Batch]
    size: int
    index: int
    by_examples: bool  # --loss_average examples: weights are those of whole documents

    def __call__(self, rows: list[Any]) -> Batch:
        batch = self.collate(rows)
        length = batch["input_ids"].shape[1]
        if length >= self.size:
            return batch_slice(batch, slice_bounds(length, self.size)[self.index : self.index + 2], self.by_examples)
        if self.index == 0:  # a few tokens that are not worth cutting
            return batch_slice(batch, [0, length], self.by_examples)
        return batch_slice(self.collate([]), [0, 1], self.by_examples)


def batch_slice(batch: Batch, bounds: Sequence[int], by_examples: bool) -> Batch:
    """Tokens `bounds` of a packed batch (`collate_packed`).

    `shift_labels` (1, l) are what each token should predict, the next slice's first token included; `labels` are the
    slice's own, for counting. `example_ids` name every document that is seen here, `documents` counts those that
    begin here, so that over the slices each counts once.
    """
    start, end = bounds
    marks = batch["cu_seqlens"].tolist()
    inside, continued, continues = slice_documents(marks, start, end)
    targets = next_token_labels(batch["labels"], batch["cu_seqlens"])
    seen = [
        name for name, begin, stop in zip(batch["example_ids"], marks, marks[1:], strict=False)
        if begin < end and stop > start
    ]  # fmt: skip
    cut: Batch = {
        "input_ids": batch["input_ids"][:, start:end],
        "labels": batch["labels"][:, start:end],
        "shift_labels": targets[:, start:end],
        "cu_seqlens": torch.tensor(inside, dtype=torch.int32),
        "example_ids": seen,
        "documents": max(len(seen) - continued, 0),
        "continued": continued,
        "continues": continues,
    }
    if by_examples:
        weights = example_weights(batch["labels"], batch["cu_seqlens"]).roll(-1, dims=1)
        cut["loss_weights"] = weights.masked_fill(targets == IGNORE_INDEX, 0)[:, start:end]
    return cut
