"""Packing: every document once, rows within capacity, as full as one-by-one best-fit decreasing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptcot_mamba.data.pack import fill_share, pack_lengths
from promptcot_mamba.errors import InputError


def spaces_of_naive_packing(lengths: list[int], capacity: int) -> list[int]:
    """The definition: longest first, each into the tightest row that takes it; the rows' remaining spaces."""
    spaces: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, space in enumerate(spaces) if space >= length]
        if not fitting:
            spaces.append(capacity)
            fitting = [len(spaces) - 1]
        spaces[min(fitting, key=lambda row: spaces[row])] -= length
    return sorted(spaces)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=80))))
def test_rows_are_those_of_the_definition(case: tuple[int, list[int]]):
    capacity, lengths = case
    rows = pack_lengths(lengths, capacity, seed=3)
    assert sorted(np.concatenate(rows).tolist() if rows else []) == list(range(len(lengths)))
    spaces = sorted(capacity - sum(lengths[document] for document in row) for row in rows)
    assert spaces == spaces_of_naive_packing(lengths, capacity)


def test_a_row_longer_than_all_documents_costs_no_more_than_they_do():
    """Open spaces are bits of one number: 10^12 of them would not fit into memory."""
    [row] = pack_lengths([3, 1, 2], 10**12)
    assert sorted(row) == [0, 1, 2]


def long_tailed_lengths(count: int) -> np.ndarray:
    """Log-normal with median 6 k, at most 20 k: the shape of long-CoT data."""
    draws = np.random.default_rng(0).normal(np.log(6000), 0.7, count)
    return np.clip(np.exp(draws), 200, 20_000).astype(np.int64)


def test_long_cot_lengths_fill_rows():
    lengths = long_tailed_lengths(20_000)
    rows = pack_lengths(lengths, 20_480)
    assert fill_share(lengths, rows, 20_480) >= 0.99


def test_seed_decides_which_of_equals_goes_where():
    lengths = np.random.default_rng(1).integers(1, 10, 300)
    first, again, other = (pack_lengths(lengths, 32, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert [lengths[row].sum() for row in first] == [lengths[row].sum() for row in other]


@pytest.mark.parametrize("lengths", [[0, 3], [3, 11]])
def test_impossible_lengths_are_refused(lengths: list[int]):
    with pytest.raises(InputError, match="rows of 10 tokens"):
        pack_lengths(lengths, 10)
