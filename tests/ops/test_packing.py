"""Packing arithmetic: round trips, and chunks that cover every token once without crossing a document."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.packing import (
    check_cu_seqlens,
    cu_seqlens_from_lengths,
    make_chunk_table,
    seq_idx_from_cu_seqlens,
)

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=8)


def test_the_example_of_the_docstring():
    cu_seqlens = cu_seqlens_from_lengths([3, 1, 2])
    assert cu_seqlens.tolist() == [0, 3, 4, 6]
    assert seq_idx_from_cu_seqlens(cu_seqlens).tolist() == [[0, 0, 0, 1, 2, 2]]


@given(LENGTHS)
def test_round_trips(lengths):
    cu_seqlens = cu_seqlens_from_lengths(lengths)
    check_cu_seqlens(cu_seqlens, sum(lengths))
    assert cu_seqlens.diff().tolist() == lengths
    assert seq_idx_from_cu_seqlens(cu_seqlens)[0].bincount().tolist() == lengths


@given(LENGTHS, st.integers(1, 64))
def test_chunks_tile_the_documents(lengths, chunk_size):
    table = make_chunk_table(cu_seqlens_from_lengths(lengths), chunk_size)
    seen = []
    for start, length, document, position in zip(
        table.starts.tolist(), table.lengths.tolist(), table.documents.tolist(), table.positions.tolist(), strict=True
    ):
        assert 1 <= length <= chunk_size
        first = sum(lengths[:document])
        assert start == first + position
        assert start + length <= first + lengths[document]
        seen.extend(range(start, start + length))
    assert seen == list(range(sum(lengths)))
    assert table.first_chunks.tolist()[-1] == table.n_chunks
    assert table.n_documents == len(lengths)


def test_a_table_is_made_once_and_again_when_the_tensor_changes():
    cu_seqlens = torch.tensor([0, 4, 10])
    first = make_chunk_table(cu_seqlens, 4)
    assert make_chunk_table(cu_seqlens, 4) is first
    cu_seqlens[1] = 5
    assert make_chunk_table(cu_seqlens, 4).starts.tolist() == [0, 4, 5, 9]


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ([1, 6], "start at 0"),
        ([0, 5], "end at"),
        ([0, 4, 4, 6], "document 1 runs from 4 to 4"),
        ([0, 5, 3, 6], "must increase"),
        ([6], "at least one document"),
    ],
)
def test_bad_boundaries_are_named(marks, message):
    with pytest.raises(InputError, match=message):
        check_cu_seqlens(torch.tensor(marks), 6)
