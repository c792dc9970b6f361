"""From verdicts to figures: avg@n with a clustered interval, pass@k, maj@k, rates, lengths, paired comparison.

Problems, not samples, are what a benchmark draws: sixteen samples of one problem share its difficulty. The headline
interval therefore clusters by problem (Miller, arXiv 2411.00640): the standard error is that of the mean of the
per-problem means, and the interval takes t quantiles with problems - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit  # scipy.stats would take a second to import

CONFIDENCE = 0.95
MAJ_EXACT_SUBSETS = 2000  # above this many subsets of k of n samples, maj@k draws this many at random
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and 95 % interval. Standard error and interval are NaN below two problems."""

    mean: float
    standard_error: float
    low: float
    high: float
    problems: int
    samples: int


def clustered_mean(scores: Mapping[str, Sequence[float]]) -> Estimate:
    """avg@n over problems: the mean of the per-problem means; `scores` maps a problem to its samples' 0/1.

    Where all samples are right, or all wrong, nothing varies and a t interval would claim certainty: Wilson's, with a
    problem counted once, stands instead.
    """
    means = np.array([np.mean(values) for values in scores.values() if len(values)])
    samples = sum(len(values) for values in scores.values())
    if len(means) > 1 and (means.max() == 0.0 or means.min() == 1.0):
        return replace(wilson_interval(int(means.sum()), len(means)), samples=samples)
    estimate = t_interval(means, samples)
    return replace(estimate, low=max(estimate.low, 0.0), high=min(estimate.high, 1.0))  # NaN stays NaN


def t_interval(values: np.ndarray, samples: int) -> Estimate:
    """Mean, standard error and t interval of independent values, shares or differences of shares."""
    count = len(values)
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0, samples)
    mean = float(values.mean())
    if count < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, count, samples)
    error = float(values.std(ddof=1) / math.sqrt(count))
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(mean, error, mean - reach, mean + reach, count, samples)


def wilson_interval(right: int, problems: int) -> Estimate:
    """One verdict a problem: a share with Wilson's 95 % interval, which also holds near 0 and 1 (JASA 22, 1927)."""
    if problems == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0, 0)
    z = float(ndtri((1 + CONFIDENCE) / 2))
    share, weight = right / problems, z * z / problems
    centre = (share + weight / 2) / (1 + weight)
    reach = z * math.sqrt(share * (1 - share) / problems + weight / (4 * problems)) / (1 + weight)
    error = math.sqrt(share * (1 - share) / problems)
    low = 0.0 if right == 0 else centre - reach  # exactly 0 and 1 at the ends, where rounding would leave 1e-18
    high = 1.0 if right == problems else centre + reach
    return Estimate(share, error, low, high, problems, problems)


def difference_of_shares(first: Estimate, second: Estimate) -> Estimate:
    """Second minus first, of two `wilson_interval`s, with Newcombe's interval (method 10, Stat. Med. 17, 1998).

    The samples are taken as independent, which on the same problems errs on the wide side.
    """
    difference = second.mean - first.mean
    low = difference - math.hypot(second.mean - second.low, first.high - first.mean)
    high = difference + math.hypot(second.high - second.mean, first.mean - first.low)
    error = math.hypot(first.standard_error, second.standard_error)
    return Estimate(difference, error, low, high, min(first.problems, second.problems), first.samples + second.samples)


@dataclass(frozen=True)
class RunSpread:
    """Accuracy by run, as the papers print it: mean ± SD (ddof 1) over runs, which is no standard error."""

    mean: float
    sd: float
    by_run: dict[int, float]


def run_spread(scores: Mapping[str, Mapping[int, float]]) -> RunSpread:
    """Accuracy of each run over the problems it holds; `scores` maps problem -> run -> 0/1."""
    by_run: dict[int, list[float]] = {}
    for runs in scores.values():
        for run, score in runs.items():
            by_run.setdefault(run, []).append(score)
    accuracies = {run: float(np.mean(by_run[run])) for run in sorted(by_run)}
    values = np.array(list(accuracies.values()))
    sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return RunSpread(float(values.mean()) if len(values) else math.nan, sd, accuracies)


def pass_at_k(n: int, right: int, k: int) -> float:
    """The unbiased chance that one of k samples drawn from n, of which `right` are right, is right.

    1 - C(n - right, k) / C(n, k) (Chen et al., arXiv 2107.03374). Raises ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= {n}")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


@dataclass(frozen=True)
class Vote:
    """maj@k of one problem: the chance that a majority vote is right, and how often the vote was tied."""

    accuracy: float
    tied: float


def maj_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int, seed: int = 0) -> Vote:
    """Majority vote over subsets of k samples, averaged over all subsets (or MAJ_EXACT_SUBSETS random ones).

    `answers` are canonical texts, None for a sample without an answer, which casts no vote. A tie counts the share of
    right answers among the tied; a subset without any vote is wrong.
    """
    n = len(answers)
    if not 1 <= k <= n:
        raise ValueError(f"maj@{k} needs 1 <= k <= {n}")
    verdict = {answer: bool(ok) for answer, ok in zip(answers, right, strict=True) if answer is not None}
    if math.comb(n, k) <= MAJ_EXACT_SUBSETS:
        subsets = list(combinations(range(n), k))
    else:
        rng = np.random.default_rng(seed)
        subsets = [tuple(rng.choice(n, size=k, replace=False)) for _ in range(MAJ_EXACT_SUBSETS)]
    correct = tied = 0.0
    for subset in subsets:
        votes = Counter(answers[index] for index in subset if answers[index] is not None)
        if not votes:
            continue
        most = max(votes.values())
        leaders = [answer for answer, count in votes.items() if count == most]
        tied += len(leaders) > 1
        correct += sum(verdict[answer] for answer in leaders) / len(leaders)
    return Vote(correct / len(subsets), tied / len(subsets))


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same problems: second minus first.

    `minimum_detectable` is the true difference that such a comparison would find significant at 5 % with a chance of
    80 %; a smaller observed difference says little.
    """

    first: float
    second: float
    difference: Estimate
    p_value: float
    minimum_detectable: float
    unpaired_problems: int


def compare_paired(first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]]) -> Comparison:
    """Paired difference of per-problem means over the problems both hold.

    Pairing removes the problems' difficulty from the error (Miller, arXiv 2411.00640, section on paired differences).
    """
    shared = [name for name in first if name in second]
    a = np.array([np.mean(first[name]) for name in shared])
    b = np.array([np.mean(second[name]) for name in shared])
    samples = sum(len(first[name]) + len(second[name]) for name in shared)
    difference = t_interval(b - a, samples)
    freedom = max(len(shared) - 1, 1)
    if difference.standard_error > 0:
        p_value = float(2 * stdtr(freedom, -abs(difference.mean) / difference.standard_error))
    else:
        p_value = 1.0 if difference.mean == 0 else math.nan
    reach = float(stdtrit(freedom, (1 + CONFIDENCE) / 2) + stdtrit(freedom, POWER))
    unpaired = len(first) + len(second) - 2 * len(shared)
    mean = (float(a.mean()), float(b.mean())) if shared else (math.nan, math.nan)
    return Comparison(*mean, difference, p_value, reach * difference.standard_error, unpaired)
