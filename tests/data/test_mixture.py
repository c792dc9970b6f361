"""Targets add up, draws are the ids' own, shards are even."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from promptcot_mamba.data.mixture import choose_rows, count_targets, cut_shards, shuffle_rows
from promptcot_mamba.data.pack import fill_share, pack_lengths
from promptcot_mamba.data.sources import parse_sources
from promptcot_mamba.errors import InputError


def specs(*entries: dict):
    return parse_sources({f"s{number}": {"adapter": "promptcot_ds", **entry} for number, entry in enumerate(entries)})


@pytest.mark.parametrize(
    ("entries", "available", "total", "targets"),
    [
        ([{}, {"epochs": 2}, {"epochs": 0.5}], [10, 10, 9], None, [10, 20, 4]),
        ([{"examples": 25}, {}], [10, 3], None, [25, 3]),
        ([{"weight": 1}, {"weight": 1}, {"weight": 1}], [50, 50, 50], 100, [34, 33, 33]),
        ([{"weight": 3}, {"weight": 1}], [60, 100], None, [60, 20]),
    ],
)
def test_targets(entries, available, total, targets):
    assert count_targets(specs(*entries), available, total) == targets


def test_an_empty_source_is_refused():
    with pytest.raises(InputError, match=r"sources\.s1: no row is left"):
        count_targets(specs({}, {}), [3, 0], None)


def test_a_row_keeps_its_draw_when_others_come_and_go():
    ids = np.random.default_rng(0).integers(0, 1 << 63, 1000, dtype=np.uint64)
    chosen = set(ids[choose_rows(ids, 100, "a", 7)[0]].tolist())
    without = np.delete(ids, np.arange(0, 1000, 10))
    again = set(without[choose_rows(without, 90, "a", 7)[0]].tolist())
    assert len(again - chosen) <= 20
    assert chosen != set(ids[choose_rows(ids, 100, "b", 7)[0]].tolist())
    assert chosen != set(ids[choose_rows(ids, 100, "a", 8)[0]].tolist())


def test_order_is_a_permutation_that_separates_copies():
    ids = np.arange(500, dtype=np.uint64)
    positions, copies = choose_rows(ids, 1250, "a", 0)
    assert np.bincount(positions).min() == 2
    assert np.bincount(positions).sum() == 1250
    order = shuffle_rows(ids[positions], copies, 0)
    assert sorted(order.tolist()) == list(range(1250))
    assert abs(np.corrcoef(positions[order], np.arange(1250))[0, 1]) < 0.1


def test_shards_are_even_and_rows_full_on_long_tailed_lengths():
    lengths = np.minimum(np.random.default_rng(0).lognormal(8.6, 0.8, 20_000).astype(np.int64) + 50, 16384)
    edges = cut_shards(lengths, 1 << 24)
    sizes = np.add.reduceat(lengths, edges[:-1])
    assert edges[0] == 0
    assert edges[-1] == len(lengths)
    assert sizes.max() - sizes.min() < 4 * 16384
    for start, stop in pairwise(edges):
        part = lengths[start:stop]
        assert fill_share(part, pack_lengths(part, 16384), 16384) >= 0.99
