"""Rows -> one batch: packed rows end to end in a single sequence with `cu_seqlens`, others padded on the right."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from promptcot_mamba.ops.linear_cross_entropy import IGNORE_INDEX

Batch = dict[str, Any]


def _concatenate(rows: Sequence[dict[str, Any]], key: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.asarray(row[key], dtype=np.int64) for row in rows]))


def collate_packed(rows: Sequence[dict[str, Any]], pad_id: int) -> Batch:
    """Rows end to end: `input_ids`, `labels` (1, l), `cu_seqlens` (docs + 1) int32, `example_ids` [docs], and of
    preferences `store_documents` (docs).

    No row at all (a process's share of an epoch's last, incomplete step) gives one padding token without label:
    the process takes part in the step and adds nothing to it.
    """
    if not rows:
        ids = torch.tensor([[pad_id]])
        return {
            "input_ids": ids,
            "labels": torch.full_like(ids, IGNORE_INDEX),
            "cu_seqlens": torch.tensor([0, 1], dtype=torch.int32),
            "example_ids": [],
        }
    lengths = np.concatenate([np.asarray(row["lengths"], dtype=np.int64) for row in rows])  # (docs)
    batch: Batch = {
        "input_ids": _concatenate(rows, "input_ids")[None],
        "labels": _concatenate(rows, "labels")[None],
        "cu_seqlens": torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])).to(torch.int32),
        "example_ids": [identity for row in rows for identity in row["example_ids"]],
    }
    if "store_documents" in rows[0]:
        batch["store_documents"] = _concatenate(rows, "store_documents")
    return batch


def collate_padded(rows: Sequence[dict[str, Any]], pad_id: int) -> Batch:
    """One document a row, padded on the right: `input_ids`, `attention_mask`, `labels` (b, l), `example_ids` [b].

    No row at all gives one padding token without label, as in `collate_packed`; its mask is 1, because a softmax
    over nothing but masked positions is not a number.
    """
    width = max((len(row["input_ids"]) for row in rows), default=1)
    shape = (max(len(rows), 1), width)
    batch: Batch = {
        "input_ids": torch.full(shape, pad_id, dtype=torch.int64),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
        "labels": torch.full(shape, IGNORE_INDEX, dtype=torch.int64),
        "example_ids": [identity for row in rows for identity in row["example_ids"]],
    }
    if not rows:
        batch["attention_mask"].fill_(1)
    for index, row in enumerate(rows):
        length = len(row["input_ids"])
        batch["input_ids"][index, :length] = torch.from_numpy(np.asarray(row["input_ids"], dtype=np.int64))
        batch["labels"][index, :length] = torch.from_numpy(np.asarray(row["labels"], dtype=np.int64))
        batch["attention_mask"][index, :length] = 1
    return batch
