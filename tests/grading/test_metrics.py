"""The figures against hand calculation, brute force and simulation."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betaincinv, betaln
from scipy.stats import beta as beta_distribution
from scipy.stats import norm, ttest_rel
from scipy.stats import t as student_t

from promptcot_mamba.grading.metrics import (
    clustered_mean,
    compare_paired,
    maj_at_k,
    pass_at_k,
    run_spread,
    share_interval,
    t_interval,
)
from promptcot_mamba.grading.posterior import (
    PAIRED_WEIGHTS,
    WEIGHTS,
    Posterior,
    difference_points,
    likely_correlations,
)

# The mean of min(2 p, 1) - p for p from Beta(0.2, 3.8), the two systems of the paired simulation.
TRUE_GAIN = quad(lambda p: (min(2 * p, 1.0) - p) * beta_distribution.pdf(p, 0.2, 3.8), 0, 1, points=[0.5], limit=200)[0]


def test_clustered_mean_by_hand():
    estimate = clustered_mean({"a": [1, 1], "b": [0, 1], "c": [0, 0]})
    assert estimate.mean == pytest.approx(0.5)
    assert estimate.standard_error == pytest.approx(math.sqrt(0.25 / 3))
    assert 0.1 < estimate.low < 0.2 < 0.8 < estimate.high < 0.9  # symmetric: three problems say little
    assert estimate.low == pytest.approx(1 - estimate.high, abs=1e-3)
    assert (estimate.problems, estimate.samples) == (3, 6)


def test_problems_weigh_the_same_however_many_samples_they_have():
    assert clustered_mean({"a": [1] * 10, "b": [0]}).mean == 0.5


def test_t_interval_by_hand():
    estimate = t_interval(np.array([1.0, 0.5, 0.0]), 6)
    assert estimate.high - estimate.mean == pytest.approx(4.302652729696142 * math.sqrt(0.25 / 3))  # t(2)


@pytest.mark.parametrize(("score", "low", "high"), [(0, 0.0, 0.0431), (1, 0.9569, 1.0)])
def test_all_wrong_or_all_right_is_not_certainty(score: int, low: float, high: float):
    estimate = clustered_mean({str(problem): [score] * 16 for problem in range(30)})
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert (estimate.mean, estimate.problems, estimate.samples) == (score, 30, 480)


def test_one_problem_has_no_standard_error():
    assert math.isnan(clustered_mean({"a": [1, 0]}).standard_error)


@pytest.mark.parametrize(("mean", "spread"), [(0.05, 1), (0.3, 1), (0.95, 2)])
def test_interval_covers_95_percent_at_30_problems_and_16_samples(mean: float, spread: float):
    """A spot check of docs/records/coverage.json: 160 draws, whose own error is 1.7 points."""
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(160):
        right = rng.binomial(16, rng.beta(mean * spread, (1 - mean) * spread, size=30))
        estimate = clustered_mean({str(i): [1.0] * c + [0.0] * (16 - c) for i, c in enumerate(right)})
        covered += estimate.low <= mean <= estimate.high
    assert 0.9 <= covered / 160 <= 0.99


def test_posterior_of_single_samples_is_the_beta_distribution():
    one = share_interval(3, 40)
    many = clustered_mean({str(i): [float(i < 3)] for i in range(40)})
    assert (one.low, one.high) == pytest.approx((many.low, many.high))
    assert (one.low, one.high) == pytest.approx(tuple(betaincinv(3.5, 37.5, [0.025, 0.975])))


@pytest.mark.parametrize(("weights", "a", "b"), [(WEIGHTS, 1, 1), (PAIRED_WEIGHTS, 0.35, 1.4)], ids=["mean", "paired"])
@pytest.mark.parametrize("counts", [[(3, 16), (0, 16), (16, 16), (1, 8)], [(1, 16), (0, 16), (0, 16)]])
def test_posterior_grid_agrees_with_brute_force(weights: np.ndarray, a: float, b: float, counts: list[tuple[int, int]]):
    """The same model summed on a plain grid of 2,000 means and 800 correlations."""
    mean = ((np.arange(2000) + 0.5) / 2000)[:, None]
    correlation = ((np.arange(800) + 0.5) / 800)[None, :]
    alpha, beta = mean * (1 / correlation - 1), (1 - mean) * (1 / correlation - 1)
    total = sum(betaln(alpha + c, beta + n - c) - betaln(alpha, beta) for c, n in counts)
    total = total + (a - 1) * np.log(correlation) + (b - 1) * np.log(1 - correlation)
    cumulative = np.cumsum((np.exp(total) / np.sqrt(mean * (1 - mean))).sum(axis=1))  # Jeffreys' prior of the mean
    expected = np.interp([0.025, 0.5, 0.975], cumulative / cumulative[-1], mean[:, 0])
    assert Posterior(counts, weights).quantile(np.array([0.025, 0.5, 0.975])) == pytest.approx(expected, abs=6e-3)


def test_run_spread_is_mean_and_sd_over_runs():
    spread = run_spread({"a": {0: 1, 1: 0}, "b": {0: 1, 1: 1}})
    assert spread.by_run == {0: 1.0, 1: 0.5}
    assert (spread.mean, spread.sd) == (0.75, pytest.approx(math.sqrt(0.125)))
    assert math.isnan(run_spread({"a": {0: 1}}).sd)


@pytest.mark.parametrize(("n", "right", "k"), [(6, 2, 1), (6, 2, 3), (6, 0, 4), (6, 6, 2), (6, 5, 2)])
def test_pass_at_k_is_the_average_over_subsets(n: int, right: int, k: int):
    marks = [1] * right + [0] * (n - right)
    subsets = list(combinations(marks, k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(any(subset) for subset in subsets) / len(subsets))


def test_pass_at_k_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="1 <= k <= 4"):
        pass_at_k(4, 1, 5)


def test_majority_of_all_samples():
    vote = maj_at_k(["=7", "right", "right", None], [False, True, True, False], 4)
    assert (vote.accuracy, vote.tied) == (1.0, 0.0)


def test_ties_count_their_share_and_are_stated():
    vote = maj_at_k(["right", "=7"], [True, False], 2)
    assert (vote.accuracy, vote.tied) == (0.5, 1.0)


def test_majority_without_votes_is_wrong():
    assert maj_at_k([None, None], [False, False], 2).accuracy == 0.0


def test_majority_of_one_is_the_mean():
    assert maj_at_k(["right", "=7", "=8", "right"], [True, False, False, True], 1).accuracy == 0.5


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(["right", "also right", "=1", "=2", "=3", None]), min_size=1, max_size=9), st.data())
def test_majority_is_the_average_over_all_subsets(answers: list[str | None], data: st.DataObject):
    k = data.draw(st.integers(1, len(answers)))
    shares, ties = [], []
    for subset in combinations(answers, k):
        votes = Counter(answer for answer in subset if answer is not None)
        leaders = [answer for answer, count in votes.items() if count == max(votes.values())]
        shares.append(sum("right" in answer for answer in leaders) / len(leaders) if leaders else 0.0)
        ties.append(len(leaders) > 1)
    vote = maj_at_k(answers, ["right" in (answer or "") for answer in answers], k)
    assert vote.accuracy == pytest.approx(np.mean(shares))
    assert vote.tied == pytest.approx(np.mean(ties))


def test_majority_of_many_samples_is_exact():
    """Of 64 samples there are 2 * 10**18 subsets of 32: only the count over classes ends."""
    answers = ["right"] * 30 + [f"={i % 12}" for i in range(34)]
    vote = maj_at_k(answers, [answer == "right" for answer in answers], 32)
    assert vote.accuracy == pytest.approx(1.0, abs=1e-3)


def test_paired_interval_covers_95_percent_where_accuracies_are_low():
    rng = np.random.default_rng(5)
    covered = plain = 0
    for _ in range(200):
        difficulty = rng.beta(0.2, 3.8, size=30)
        scores = [rng.binomial(16, rate) for rate in (difficulty, np.clip(2 * difficulty, 0, 1))]
        result = compare_paired(*({str(i): [1.0] * c + [0.0] * (16 - c) for i, c in enumerate(x)} for x in scores))
        true = TRUE_GAIN
        covered += result.difference.low <= true <= result.difference.high
        values = (scores[1] - scores[0]) / 16
        plain += abs(values.mean() - true) <= 2.045 * values.std(ddof=1) / 30**0.5
    assert 0.9 <= covered / 200 <= 0.99
    assert plain < covered  # t alone misses


def test_p_value_and_interval_agree():
    rng = np.random.default_rng(11)
    for _ in range(20):
        scores = [{str(i): list(rng.binomial(1, rate, size=4).astype(float)) for i in range(12)} for rate in (0.1, 0.3)]
        result = compare_paired(*scores)
        excluded = not result.difference.low <= 0 <= result.difference.high
        assert (result.p_value < 0.05) is excluded


@pytest.mark.parametrize(
    ("problems", "every", "freedom"),
    [(8, 4, 4), (30, 4, 15), (96, 4, 48), pytest.param(30, 30, 29, id="one solved: the prior has widened it")],
)
def test_tails_of_a_difference_are_student_s(problems: int, every: int, freedom: float):
    """One sample a problem and no correlation: the ends are quantiles of the difference of two beta distributions."""
    first = {str(i): [float(i % every == 0)] for i in range(problems)}
    second = {str(i): [float(i % 4 < 2 and i % 8 != 0)] for i in range(problems)}
    found = compare_paired(first, second)
    counts = [[(scores[name][0], 1) for name in first] for scores in (first, second)]
    a, b = (np.array([right for right, _ in own]) for own in counts)
    correlations = likely_correlations(a, b, int(np.sum(a != b)))
    points = difference_points(*(Posterior(own) for own in counts), correlations)
    share = norm.cdf(student_t.ppf(0.025, freedom))
    assert share < 0.025
    assert (found.difference.low, found.difference.high) == pytest.approx(np.quantile(points, [share, 1 - share]))


def test_a_large_benchmark_has_a_t_interval_whatever_the_shape_of_its_difficulty():
    """Eight runs that begin alike: most problems solved always or never, a shape that no beta distribution has."""
    rng = np.random.default_rng(5)
    rates = np.repeat([0.0, 0.15, 0.5, 1.0], [150, 60, 40, 150])
    scores = {str(i): list(rng.binomial(1, rate, size=8).astype(float)) for i, rate in enumerate(rates)}
    means = np.array([np.mean(own) for own in scores.values()])
    found = clustered_mean(scores)
    reach = student_t.ppf(0.975, 399) * means.std(ddof=1) / 20
    assert (found.low, found.high) == pytest.approx((means.mean() - reach, means.mean() + reach))
    few = clustered_mean(dict(list(scores.items())[:205]))  # 55 problems with something right, but few such samples
    assert few.high - few.mean != pytest.approx(few.mean - few.low)


def test_many_problems_that_tell_two_systems_apart_make_a_t_test():
    rng = np.random.default_rng(6)
    first, second = (
        {str(i): list(rng.binomial(1, rate, size=4).astype(float)) for i in range(200)} for rate in (0.4, 0.5)
    )
    pair = [np.array([np.mean(own) for own in scores.values()]) for scores in (first, second)]
    found, peer = compare_paired(first, second), ttest_rel(pair[1], pair[0])
    low, high = peer.confidence_interval()
    assert (found.difference.low, found.difference.high, found.p_value) == pytest.approx((low, high, peer.pvalue))


def test_few_problems_apart_in_a_large_benchmark_leave_the_mean_inside():
    """200 problems of which 180 are solved always or never: the posteriors lie a point beside the means."""
    solved = np.repeat([8, 0, 4], [95, 85, 20])
    for better, step, least in ((range(180, 192), 2, 0.0), (range(95, 119), 1, 0.005)):
        other = solved.copy()
        other[list(better)] += step  # one way only
        found = compare_paired(
            *({str(i): [1.0] * c + [0.0] * (8 - c) for i, c in enumerate(counts)} for counts in (solved, other))
        )
        assert found.difference.mean == pytest.approx(0.015)
        assert least < found.difference.low < 0.013 < 0.017 < found.difference.high < 0.03
        assert found.p_value < 0.01


def test_systems_that_differ_everywhere_alike_still_have_an_interval():
    wrong, right = ({str(i): [value] for i in range(50)} for value in (0.0, 1.0))
    found = compare_paired(wrong, right)
    assert 0.8 < found.difference.low < 1 == found.difference.high
    assert found.p_value < 1e-3


def test_pairing_removes_the_problems_difficulty():
    rng = np.random.default_rng(3)
    base = rng.uniform(0, 0.8, size=60)
    first, second = (
        {str(i): list(rng.binomial(1, p, size=64).astype(float)) for i, p in enumerate(rates)}
        for rates in (base, base + 0.1)
    )
    result = compare_paired(first, second)
    apart = compare_paired(first, {str((int(i) + 30) % 60): scores for i, scores in second.items()})
    assert result.difference.low < 0.1 < result.difference.high
    assert result.difference.high - result.difference.low < (apart.difference.high - apart.difference.low) / 2
    assert result.difference.standard_error < 0.02 < clustered_mean(first).standard_error
    assert result.p_value < 1e-3 < apart.p_value
    assert result.minimum_detectable == pytest.approx(result.difference.standard_error * (2.0010 + 0.8478), rel=1e-3)


def test_a_difference_of_single_samples_is_that_of_two_beta_distributions():
    """Different problems, one sample each: two independent posteriors, by brute force."""
    first, second = Posterior([(1.0, 1)] * 48 + [(0.0, 1)] * 32), Posterior([(1.0, 1)] * 56 + [(0.0, 1)] * 14)
    points = difference_points(first, second, np.zeros(1))
    rng = np.random.default_rng(0)
    drawn = rng.beta(56.5, 14.5, 400_000) - rng.beta(48.5, 32.5, 400_000)
    for share in (0.025, 0.25, 0.5, 0.75, 0.975):
        assert np.quantile(points, share) == pytest.approx(np.quantile(drawn, share), abs=2e-3)


def test_correlations_gather_around_the_one_seen_as_problems_inform():
    rng = np.random.default_rng(0)
    a = rng.uniform(size=200)
    b = a + 0.1 * rng.uniform(size=200)
    few, many = (likely_correlations(a, b, informative) for informative in (4, 200))
    assert np.ptp(many) < 0.02 < 0.05 < np.ptp(few)
    assert many.mean() == pytest.approx(np.corrcoef(a, b)[0, 1], abs=0.005)
    assert list(likely_correlations(a, np.ones(200), 200)) == pytest.approx([-0.099, -0.05, 0, 0.05, 0.099], abs=0.01)


def test_comparison_uses_shared_problems_and_counts_the_others():
    result = compare_paired({"a": [1], "b": [0], "x": [1]}, {"a": [1], "b": [1], "y": [0]})
    assert (result.difference.problems, result.unpaired_problems) == (2, 2)
    assert result.difference.mean == 0.5


def test_equal_files_do_not_differ():
    result = compare_paired({"a": [1], "b": [0]}, {"a": [1], "b": [0]})
    assert (result.difference.mean, result.p_value, result.minimum_detectable) == (0.0, 1.0, 0.0)
