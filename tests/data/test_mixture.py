"""Targets add up, draws are the ids' own, shards are even."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from promptcot_mamba.data.mixture import MixturePlan, choose_rows, count_targets, cut_shards, order_rows
from promptcot_mamba.data.pack import fill_share, pack_lengths
from promptcot_mamba.data.sources import parse_sources
from promptcot_mamba.errors import InputError


def specs(*entries: dict):
    return parse_sources({f"s{number}": {"adapter": "promptcot_ds", **entry} for number, entry in enumerate(entries)})


def targets_of(entries: list[dict], available: list[int], length: int = 10, **plan) -> list[int]:
    """Of sources whose rows all have `length` tokens."""
    rng = np.random.default_rng(0)
    lengths = [np.full(count, length) for count in available]
    ids = [rng.integers(0, 1 << 63, count, dtype=np.uint64) for count in available]
    return count_targets(specs(*entries), lengths, ids, MixturePlan(**plan))


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
    assert targets_of(entries, available, total_examples=total) == targets


def test_an_empty_source_is_refused():
    with pytest.raises(InputError, match=r"sources\.s1: no row is left"):
        targets_of([{}, {}], [3, 0])


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
    order = order_rows(ids[positions], copies, np.ones(1250), MixturePlan())
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


@pytest.mark.parametrize(
    ("entries", "available", "plan", "targets"),
    [
        ([{"tokens": 55}, {"tokens": 250}], [10, 10], {}, [5, 25]),
        ([{"weight": 3}, {"weight": 1}], [60, 100], {"total_tokens": 400}, [30, 10]),
        ([{"tokens": 1}], [10], {}, [1]),
    ],
)
def test_amounts_in_tokens(entries, available, plan, targets):
    assert targets_of(entries, available, **plan) == targets


def test_tokens_are_met_whatever_the_lengths():
    rng = np.random.default_rng(1)
    ids, lengths = rng.integers(0, 1 << 63, 500, dtype=np.uint64), rng.integers(10, 3000, 500)
    for tokens in (5_000, 200_000, int(lengths.sum()) + 100_000):
        (target,) = count_targets(specs({"tokens": tokens}), [lengths], [ids], MixturePlan())
        chosen, _ = choose_rows(ids, target, "s0", 0)
        assert tokens - 3000 < lengths[chosen].sum() <= tokens


def test_more_passes_than_allowed_are_refused_with_what_it_would_take():
    with pytest.raises(InputError) as refused:
        targets_of([{"examples": 256_000}], [9])
    assert "sources.s0: 256,000 examples of 9 usable rows are 28,444.4 passes" in str(refused.value)
    assert "ask for 36 or fewer, find 64,000 usable rows, or set sources.s0.max_passes: 28445" in str(refused.value)
    assert targets_of([{"examples": 256_000, "max_passes": 28_445}], [9]) == [256_000]
    assert targets_of([{"epochs": 5}], [9], max_passes=5.0) == [45]


def test_short_first_orders_each_pass_from_short_to_long():
    rng = np.random.default_rng(2)
    ids, lengths = rng.integers(0, 1 << 63, 200, dtype=np.uint64), rng.integers(10, 3000, 200)
    positions, copies = choose_rows(ids, 400, "a", 0)
    order = order_rows(ids[positions], copies, lengths[positions], MixturePlan(order="short_first"))
    ordered = lengths[positions][order]
    assert (np.diff(ordered[:200]) >= 0).all()
    assert (np.diff(ordered[200:]) >= 0).all()
