"""How far raters agree beyond chance: kappa of two judges, and of any number."""

import math
from collections import Counter
from collections.abc import Sequence


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """(observed - expected) / (1 - expected) agreement of two raters of the same items (Cohen, 1960).

    NaN where chance alone would agree on everything: both gave one and the same rating throughout, or nothing.
    """
    count = len(first)
    if not count:
        return math.nan
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    of_first, of_second = Counter(first), Counter(second)
    expected = sum(of_first[rating] * of_second[rating] for rating in of_first) / count**2
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


def fleiss_kappa(items: Sequence[Sequence[str]]) -> float:
    """Fleiss' kappa (1971) of items that were each rated by the same number of raters, at least two.

    NaN as in `cohen_kappa`; it takes all raters' ratings as draws from one distribution.
    """
    if not items or len(items[0]) < 2:
        return math.nan
    raters = len(items[0])
    counts = [Counter(ratings) for ratings in items]
    pairs = raters * (raters - 1)
    observed = sum(sum(n * (n - 1) for n in count.values()) / pairs for count in counts) / len(items)
    totals = sum(counts, Counter())
    expected = sum((n / (raters * len(items))) ** 2 for n in totals.values())
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)
