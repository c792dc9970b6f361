"""The figures against hand calculation, brute force and simulation."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from promptcot_mamba.grading.metrics import (
    clustered_mean,
    compare_paired,
    maj_at_k,
    pass_at_k,
    run_spread,
    t_interval,
)


def test_clustered_mean_by_hand():
    estimate = clustered_mean({"a": [1, 1], "b": [0, 1], "c": [0, 0]})
    assert estimate.mean == pytest.approx(0.5)
    assert estimate.standard_error == pytest.approx(math.sqrt(0.25 / 3))
    assert (estimate.low, estimate.high) == (
        0.0,
        1.0,
    )  # t(2) reaches 4.30 x 0.29 to both sides, beyond what a share can be
    assert (estimate.problems, estimate.samples) == (3, 6)


def test_problems_weigh_the_same_however_many_samples_they_have():
    assert clustered_mean({"a": [1] * 10, "b": [0]}).mean == 0.5


def test_t_interval_by_hand():
    estimate = t_interval(np.array([1.0, 0.5, 0.0]), 6)
    assert estimate.high - estimate.mean == pytest.approx(4.302652729696142 * math.sqrt(0.25 / 3))  # t(2)


@pytest.mark.parametrize(("score", "low", "high"), [(0, 0.0, 0.1135), (1, 0.8865, 1.0)])
def test_all_wrong_or_all_right_is_not_certainty(score: int, low: float, high: float):
    estimate = clustered_mean({str(problem): [score] * 16 for problem in range(30)})
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert (estimate.mean, estimate.problems, estimate.samples) == (score, 30, 480)


def test_one_problem_has_no_standard_error():
    assert math.isnan(clustered_mean({"a": [1, 0]}).standard_error)


def test_interval_covers_95_percent_at_30_problems_and_16_samples():
    rng = np.random.default_rng(7)
    covered, trials = 0, 4000
    for _ in range(trials):
        difficulty = rng.beta(0.5, 0.7, size=30)  # many problems always or never solved, as on AIME
        right = rng.binomial(16, difficulty)
        estimate = clustered_mean({str(i): [1.0] * c + [0.0] * (16 - c) for i, c in enumerate(right)})
        covered += estimate.low <= 0.5 / 1.2 <= estimate.high
    assert 0.93 <= covered / trials <= 0.97


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


def test_drawn_subsets_come_near_the_exact_average():
    answers = ["right"] * 9 + ["=1"] * 7
    right = [True] * 9 + [False] * 7
    drawn = maj_at_k(answers, right, 8).accuracy
    exact = sum(
        math.comb(9, i) * math.comb(7, 8 - i) / math.comb(16, 8) * (1.0 if i > 4 else 0.5 if i == 4 else 0.0)
        for i in range(1, 9)
    )
    assert drawn == pytest.approx(exact, abs=0.03)


def test_pairing_removes_the_problems_difficulty():
    rng = np.random.default_rng(3)
    base = rng.uniform(0, 0.9, size=40)
    first = {str(i): [float(p)] * 4 for i, p in enumerate(base)}
    second = {str(i): [float(p) + 0.05 + 0.01 * (i % 2)] * 4 for i, p in enumerate(base)}
    result = compare_paired(first, second)
    assert result.difference.mean == pytest.approx(0.055)
    assert result.difference.standard_error < 0.002 < clustered_mean(first).standard_error
    assert result.p_value < 1e-6
    assert result.minimum_detectable == pytest.approx(result.difference.standard_error * (2.0227 + 0.8512), rel=1e-3)


def test_comparison_uses_shared_problems_and_counts_the_others():
    result = compare_paired({"a": [1], "b": [0], "x": [1]}, {"a": [1], "b": [1], "y": [0]})
    assert (result.difference.problems, result.unpaired_problems) == (2, 2)
    assert result.difference.mean == 0.5


def test_equal_files_do_not_differ():
    result = compare_paired({"a": [1], "b": [0]}, {"a": [1], "b": [0]})
    assert (result.difference.mean, result.p_value, result.minimum_detectable) == (0.0, 1.0, 0.0)
