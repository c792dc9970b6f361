"""From verdicts to figures: avg@n with a clustered interval, pass@k, maj@k, rates, lengths, paired comparison.

Problems, not samples, are what a benchmark draws: sixteen samples of one problem share its difficulty. The standard
error therefore is that of the mean of the per-problem means (Miller, arXiv 2411.00640). Where few problems are solved,
or unsolved, or tell two systems apart, the interval is the middle 95 % of a posterior (`posterior.py`), elsewhere
Student's t over problems, which supposes no shape of their difficulty; coverage of both was measured
(scripts/bench/coverage.py).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit  # scipy.stats would take a second to import

from promptcot_mamba.grading.posterior import PAIRED_WEIGHTS, Posterior, difference_points, likely_correlations

CONFIDENCE = 0.95
TAILS = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
POWER = 0.8
FREEDOM = 0.5  # degrees of freedom of a paired difference, per problem: spreads and correlation are estimated too
ENOUGH_SOLVED = 30  # problems solved, and as many unsolved (sums of means): t holds whatever their spread
ENOUGH_APART = 40  # problems on which two systems differ: t holds
FEWEST_TELLING = 2  # problems that a system must (not) have solved, below which the prior speaks rather than the data


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

    The standard error is that of the per-problem means. The interval is t's where ENOUGH_SOLVED problems are solved and
    unsolved and have several samples each, else the middle of `Posterior`, which holds where hardly anything is right
    or wrong. Where all samples are wrong (right) it begins at 0 (ends at 1).
    """
    counts = [(float(sum(values)), len(values)) for values in scores.values() if len(values)]
    means = np.array([right / samples for right, samples in counts])
    estimate = t_interval(means, sum(samples for _, samples in counts))
    several = any(samples > 1 for _, samples in counts)
    if len(counts) < 2 or (several and min(means.sum(), (1 - means).sum()) >= ENOUGH_SOLVED):
        return estimate
    low, high = Posterior(counts).quantile(TAILS)
    low = 0.0 if means.max() == 0 else min(low, estimate.mean)
    high = 1.0 if means.min() == 1 else max(high, estimate.mean)
    return replace(estimate, low=float(low), high=float(high))


def share_interval(right: int, problems: int) -> Estimate:
    """One verdict a problem: a share with the same interval as `clustered_mean`."""
    if problems == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0, 0)
    share = right / problems
    low, high = Posterior([(1.0, 1)] * right + [(0.0, 1)] * (problems - right)).quantile(TAILS)
    error = math.sqrt(share * (1 - share) / problems)
    ends = (float(low) if right else 0.0, float(high) if right < problems else 1.0)
    return Estimate(share, error, *ends, problems, problems)


def t_interval(values: np.ndarray, samples: int) -> Estimate:
    """Mean, standard error and t interval of independent values that are no shares: differences over seeds."""
    count = len(values)
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0, samples)
    mean = float(values.mean())
    if count < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, count, samples)
    error = float(values.std(ddof=1) / math.sqrt(count))
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(mean, error, mean - reach, mean + reach, count, samples)


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


def maj_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int) -> Vote:
    """The majority vote of k of n samples, exactly: the average over all subsets of k.

    `answers` name the class of equal answers each sample votes for, None for a sample without an answer, which casts no
    vote. A tie counts the share of right answers among the tied; a subset without any vote is wrong. Raises ValueError
    unless 1 <= k <= n.
    """
    n = len(answers)
    if not 1 <= k <= n:
        raise ValueError(f"maj@{k} needs 1 <= k <= {n}")
    verdicts = {answer: bool(ok) for answer, ok in zip(answers, right, strict=True) if answer is not None}
    sizes = Counter(answer for answer in answers if answer is not None)
    groups = [[size for answer, size in sizes.items() if verdicts[answer] is ok] for ok in (True, False)]
    silent = np.array([math.comb(n - sizes.total(), chosen) for chosen in range(k + 1)], dtype=object)
    correct, tied = Fraction(0), 0
    for most in range(1, k + 1):
        good, bad = (_leaders(sizes, most, k) for sizes in groups)
        for a, ways in enumerate(good):
            for b, others in enumerate(bad):
                if a + b:
                    count = int(np.convolve(np.convolve(ways, others), silent)[k])
                    correct += Fraction(a * count, a + b)
                    tied += count * (a + b > 1)
    subsets = math.comb(n, k)
    return Vote(float(correct / subsets), tied / subsets)


def _leaders(sizes: Sequence[int], most: int, k: int) -> list[np.ndarray]:
    """Ways to draw votes from classes of these sizes, none of them above `most`, in whole numbers.

    Entry [a][m]: the ways to draw m votes (up to k) such that exactly `a` classes have `most` of them.
    """
    nothing = np.zeros(k + 1, dtype=object)
    table = [np.array([1] + [0] * k, dtype=object)]
    for size in sizes:
        below = np.array([math.comb(size, chosen) for chosen in range(min(most, size + 1))], dtype=object)
        fewer = [np.convolve(ways, below)[: k + 1] for ways in table]
        if size < most:
            table = fewer
            continue
        shifted = [np.concatenate([[0] * most, math.comb(size, most) * ways])[: k + 1] for ways in table]
        table = [
            (fewer[a] if a < len(fewer) else nothing) + (shifted[a - 1] if a else nothing)
            for a in range(min(len(table), k // most) + 1)
        ]
    return table


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same problems: second minus first.

    `minimum_detectable` is the true difference that a t test of these would find significant at 5 % with a chance of
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
    Where the systems differ on ENOUGH_APART problems, interval and p are those of a t test over problems, elsewhere
    those of `_paired_posterior`.
    """
    shared = [name for name in first if name in second]
    counts = [[(float(sum(scores[name])), len(scores[name])) for name in shared] for scores in (first, second)]
    a, b = (np.array([right / samples for right, samples in own]) for own in counts)
    difference = t_interval(b - a, sum(samples for own in counts for _, samples in own))
    unpaired = len(first) + len(second) - 2 * len(shared)
    means = (float(a.mean()), float(b.mean())) if shared else (math.nan, math.nan)
    if len(shared) < 2:
        return Comparison(*means, difference, math.nan, math.nan, unpaired)
    freedom = len(shared) - 1
    needed = float(stdtrit(freedom, TAILS[1]) + stdtrit(freedom, POWER)) * difference.standard_error
    if np.sum(a != b) >= ENOUGH_APART and difference.standard_error > 0:
        p_value = 2 * float(stdtr(freedom, -abs(difference.mean) / difference.standard_error))
    else:
        low, high, p_value = _paired_posterior(counts, a, b)
        difference = replace(difference, low=min(low, difference.mean), high=max(high, difference.mean))
    return Comparison(*means, difference, p_value, needed, unpaired)


def _paired_posterior(
    counts: Sequence[Sequence[tuple[float, int]]], a: np.ndarray, b: np.ndarray
) -> tuple[float, float, float]:
    """Ends of the 95 % interval and p of a difference: two posteriors, correlated as the results on the problems are.

    `counts` holds each system's (right, samples) by problem, `a` and `b` their means. Spreads and correlation are
    estimated from the problems, so the tails left out are those of a normal variable beyond Student's quantile, less
    than 2.5 % each, with FREEDOM chosen by simulation; p is twice the smaller part beside zero, by the same measure.
    Where both systems have ENOUGH_SOLVED problems solved and unsolved, the difference is put around its mean: of
    problems solved always or never, which no beta distribution fits, the posteriors lie beside their means by more
    than a few problems apart can move them.
    """
    informative = int(np.sum((a != b) | ((a > 0) & (a < 1))))
    before, after = (Posterior(own, PAIRED_WEIGHTS) for own in counts)
    points = difference_points(before, after, likely_correlations(a, b, informative))
    if all(min(own.sum(), (1 - own).sum()) >= ENOUGH_SOLVED for own in (a, b)):
        points = points + (b - a).mean() - np.median(points)
    telling = min(int(np.sum(solved)) for own in (a, b) for solved in (own > 0, own < 1))
    freedom = max(1.0, FREEDOM * len(a)) if telling >= FEWEST_TELLING else len(a) - 1
    low, high = np.quantile(points, ndtr(stdtrit(freedom, TAILS)))
    beyond = min(float((points <= 0).mean()), float((points >= 0).mean()))
    beyond = max(beyond, 1 / len(points))  # no smaller one can be told from zero
    return float(low), float(high), min(1.0, 2 * float(stdtr(freedom, ndtri(beyond))))
