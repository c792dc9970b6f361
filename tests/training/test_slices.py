"""A packed batch cut into slices: nothing lost, nothing twice, every token learns its successor across borders."""

from __future__ import annotations

import itertools
import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from promptcot_mamba.data.collate import collate_packed
from promptcot_mamba.errors import InputError
from promptcot_mamba.model.causal_lm import next_token_labels
from promptcot_mamba.ops.linear_cross_entropy import IGNORE_INDEX
from promptcot_mamba.training.checks import check_residual, check_slices
from promptcot_mamba.training.losses import example_weights
from promptcot_mamba.training.meters import count_batch
from promptcot_mamba.training.slices import SliceCollator

COLLATE = partial(collate_packed, pad_id=0)


def draw_row(lengths: list[int], seed: int = 0) -> dict:
    """A packed row of documents whose first half is prompt."""
    draw = random.Random(seed)
    ids = [draw.randint(1, 99) for _ in range(sum(lengths))]
    labels = list(ids)
    start = 0
    for length in lengths:
        for position in range(start, start + max(1, length // 2)):
            labels[position] = IGNORE_INDEX
        start += length
    names = [f"ex{number}" for number in range(len(lengths))]
    return {"input_ids": ids, "labels": labels, "lengths": lengths, "example_ids": names}


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("lengths", [[40], [20, 20], [1] * 40, [13, 1, 7, 19], [39, 1], [5], [2, 1]])
@pytest.mark.parametrize("by_examples", [False, True])
def test_slices_together_are_the_row(size: int, lengths: list[int], by_examples: bool):
    row = draw_row(lengths)
    whole = COLLATE([row])
    parts = [SliceCollator(COLLATE, size, index, by_examples)([row]) for index in range(size)]
    assert [sum(counts) for counts in zip(*map(count_batch, parts), strict=True)][:2] == count_batch(whole)[:2]
    assert sum(part["documents"] for part in parts) == len(lengths)
    full = [part for part in parts if part["example_ids"]]
    targets = next_token_labels(whole["labels"], whole["cu_seqlens"])
    assert torch.equal(torch.cat([part["input_ids"] for part in full], 1), whole["input_ids"])
    assert torch.equal(torch.cat([part["shift_labels"] for part in full], 1), targets)
    for left, right in itertools.pairwise(full):
        assert left["continues"] == right["continued"]
    assert not full[0]["continued"]
    assert not full[-1]["continues"]
    if by_examples:
        expected = example_weights(whole["labels"], whole["cu_seqlens"])
        got = torch.cat([part["loss_weights"] for part in full], 1)
        assert torch.equal(got[0, :-1], expected[0, 1:].masked_fill(targets[0, :-1] == IGNORE_INDEX, 0))


def test_a_rank_without_a_row_takes_part_with_nothing():
    part = SliceCollator(COLLATE, 4, 2, False)([])
    assert count_batch(part)[:2] == [0, 0]
    assert part["documents"] == 0
    assert (part["continued"], part["continues"]) == (False, False)
    assert bool((part["shift_labels"] == IGNORE_INDEX).all())


def test_a_document_is_named_wherever_it_is_seen():
    names = [SliceCollator(COLLATE, 2, index, False)([draw_row([10, 30])])["example_ids"] for index in range(2)]
    assert names == [["ex0", "ex1"], ["ex1"]]


def arguments(**changes) -> SimpleNamespace:
    """What the checks read of the flags, at their defaults."""
    flags = {
        "sequence_parallel_size": 1, "checkpoint_every": 1, "offload_checkpoints": False, "residual_in_fp32": None,
        "narrow_weights": False, "max_length": 64,
    }  # fmt: skip
    return SimpleNamespace(**flags | changes)


def check(args: SimpleNamespace, packing: bool, is_mamba2: bool) -> None:
    check_slices(args, args, packing, is_mamba2)
    check_residual(args, is_mamba2)


@pytest.mark.parametrize(
    ("changes", "packing", "is_mamba2", "message"),
    [
        ({"sequence_parallel_size": 2}, True, False, "--sequence_parallel_size 2: only Mamba-2 rows can be cut"),
        ({"sequence_parallel_size": 2}, False, True, "--sequence_parallel_size 2: rows must be packed"),
        ({"sequence_parallel_size": 4, "max_length": 3}, True, True, "4: more slices than --max_length 3"),
        ({"checkpoint_every": 4}, True, False, "--checkpoint_every 4: for Mamba-2 models only"),
        ({"offload_checkpoints": True}, True, False, "--offload_checkpoints True: for Mamba-2 models only"),
        ({"residual_in_fp32": False}, True, True, "--residual_in_fp32 False: needs bf16 weights"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(changes: dict, packing: bool, is_mamba2: bool, message: str):
    with pytest.raises(InputError, match=message):
        check(arguments(**changes), packing, is_mamba2)


@pytest.mark.parametrize(
    "changes", [{}, {"residual_in_fp32": True}, {"residual_in_fp32": False, "narrow_weights": True}]
)
def test_what_can_be_is_let_through(changes: dict):
    check(arguments(**changes), packing=True, is_mamba2=True)
