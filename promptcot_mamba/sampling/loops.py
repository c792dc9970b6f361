"""Find chains that have fallen into exact repetition, cheaply enough to look at every token of every chain.

A chain loops at token i if, for some period p <= MAX_PERIOD, the last `max(MIN_REPEATS * p, MIN_SPAN)` tokens up to
and including i repeat with period p. MIN_SPAN keeps a row of zeros or dashes from being called a loop.
"""

from array import array

import numpy as np

MAX_PERIOD = 2048
MIN_REPEATS = 8
MIN_SPAN = 256
BLOCK = 64  # tokens looked at together
_LOOKBACK = 64  # tokens before a block that a looping period must already match
# A loop needs max(7p, MIN_SPAN - p) matches in a row, never fewer than 224 (at p = 32).
assert BLOCK + _LOOKBACK <= 224


def find_loop(tokens: array, start: int) -> int | None:
    """Length of the shortest looping prefix of `tokens` that ends after `start`, or None.

    `tokens` is an array of ids ("i" or "l"); those up to `start` have been looked at before. The answer depends on
    the tokens alone, not on how they were cut into calls.
    """
    for block in range(start, len(tokens), BLOCK):
        cut = _find_in_block(tokens, block, min(block + BLOCK, len(tokens)))
        if cut is not None:
            return cut
    return None


def _find_in_block(tokens: array, start: int, end: int) -> int | None:
    """The earliest looping prefix that ends in (start, end]; `end - start` is at most BLOCK.

    A loop's matches reach back further than a block and the look-back, so its period matches each of the _LOOKBACK
    tokens before the block. In ordinary text hardly any period does.
    """
    ids = np.frombuffer(tokens, dtype=np.dtype(tokens.typecode))
    periods = _matching_periods(ids, start)
    cuts = [cut for period in periods if (cut := _loop_end(ids, int(period), start, end)) is not None]
    return min(cuts, default=None)


def _matching_periods(ids: np.ndarray, start: int) -> np.ndarray:
    """Periods p for which the _LOOKBACK tokens before `start` equal those p earlier. ids (l,) -> (few,)."""
    if start < MIN_SPAN - BLOCK:
        return np.empty(0, dtype=np.int64)
    periods = np.arange(1, min(MAX_PERIOD, start - 1) + 1)
    for back in range(1, _LOOKBACK + 1):
        here = start - back
        periods = periods[periods <= here]
        periods = periods[ids[here - periods] == ids[here]]
        if not len(periods):
            break
    return periods


def _loop_end(ids: np.ndarray, period: int, start: int, end: int) -> int | None:
    """The first prefix length in (start, end] whose tail repeats with `period` for long enough."""
    needed = max((MIN_REPEATS - 1) * period, MIN_SPAN - period)  # matches in a row: a span of s has s - p of them
    first = max(period, start - needed)
    breaks = np.flatnonzero(ids[first:end] != ids[first - period : end - period])
    for begin, stop in zip(np.append(first, first + breaks + 1), np.append(first + breaks, end), strict=True):
        cut = int(begin) + needed
        if cut <= stop and cut > start:  # a run of matches begin..stop; cut is where it becomes long enough
            return cut
    return None
