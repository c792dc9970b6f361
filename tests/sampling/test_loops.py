"""Loop detection against its definition, token by token."""

from __future__ import annotations

import random
from array import array

import pytest

from promptcot_mamba.sampling.loops import MAX_PERIOD, MIN_REPEATS, MIN_SPAN, find_loop


def first_loop(tokens: list[int]) -> int | None:
    """The definition: the shortest prefix whose tail repeats with some period for long enough."""
    matches = [0] * (MAX_PERIOD + 1)  # in a row, by period
    for end in range(1, len(tokens) + 1):
        for period in range(1, min(MAX_PERIOD, end - 1) + 1):
            matches[period] = matches[period] + 1 if tokens[end - 1] == tokens[end - 1 - period] else 0
            if matches[period] + period >= max(MIN_REPEATS * period, MIN_SPAN):
                return end
    return None


def in_pieces(tokens: list[int], sizes) -> int | None:
    """`find_loop` fed as an engine would feed it."""
    seen, cut = array("q"), None
    rest = list(tokens)
    while rest and cut is None:
        size, before = next(sizes), len(seen)
        seen.extend(rest[:size])
        rest = rest[size:]
        cut = find_loop(seen, before)
    return cut


def make_chain(numbers: random.Random, period: int, length: int) -> list[int]:
    """Some text, then a loop of `period` tokens, `length` tokens in all of it."""
    text = [numbers.randrange(50) for _ in range(numbers.randrange(400))]
    unit = [numbers.randrange(50) for _ in range(period)]
    return text + (unit * (length // period + 1))[:length] + [numbers.randrange(50) for _ in range(50)]


@pytest.mark.parametrize("period", [1, 2, 7, 31, 32, 33, 64, 65, 100])
def test_found_where_the_definition_finds_it_however_it_arrives(period: int):
    numbers = random.Random(period)
    for length in (max(8 * period, MIN_SPAN) - 2, max(8 * period, MIN_SPAN) + 70):
        tokens = make_chain(numbers, period, length)
        truth = first_loop(tokens)
        for sizes in (iter(lambda: 64, None), iter(lambda: 1, None), iter(lambda: 10_000, None)):
            assert in_pieces(tokens, sizes) == truth
        assert in_pieces(tokens, iter(lambda: numbers.randrange(1, 200), None)) == truth


def test_the_longest_period_and_one_beyond():
    numbers = random.Random(0)
    for period, found in ((MAX_PERIOD, True), (MAX_PERIOD + 1, False)):
        tokens = [numbers.randrange(30_000) for _ in range(period)] * 9
        assert (find_loop(array("q", tokens), 0) == MIN_REPEATS * period) == found


def test_ordinary_repetition_is_no_loop():
    line = [5, 6, 7, 8, 9]
    tokens = array("q", [1] * 200 + line * 40 + list(range(3000)) + [0] * (MIN_SPAN - 1) + [2, 3])
    assert find_loop(tokens, 0) is None
