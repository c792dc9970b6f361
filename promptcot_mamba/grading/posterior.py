"""What samples of a few problems say of a mean accuracy, and of the difference of two: a beta-binomial posterior.

Each problem has an accuracy of its own, drawn from a beta distribution with mean m and intraclass correlation r; its
samples are right with that accuracy. Beforehand r is uniform and m has Jeffreys' prior, Beta(1/2, 1/2): its angle is
uniform. With one sample a problem r drops out and the posterior of m is Beta(1/2 + right, 1/2 + wrong). No normal
approximation is made, so intervals hold near 0 and 1, where t intervals over problems do not (coverage table in
docs/grading.md, made by scripts/bench/coverage.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv, betaln, ndtr, ndtri

# Intraclass correlations, close together near both ends, and the share of the uniform prior that each stands for.
CORRELATIONS = np.concatenate(
    [[0.0005, 0.002, 0.005, 0.01, 0.02, 0.035], np.linspace(0.05, 0.95, 19), [0.97, 0.985, 0.995]]
)
WEIGHTS = np.gradient(CORRELATIONS)
POINTS = 257  # of the mean; equal steps of its angle (the mean is its sine squared) are finer near 0 and 1
COARSE = 63  # points of the first look, which finds where the posterior lies
GRID = 100  # points of each mean in a difference
KNOTS = np.linspace(-5, 5, 401)  # normals, between which a posterior's quantiles are straight enough
CHANCES = 5  # values that stand for what a correlation may be
NEARLY_ONE = 0.995
NEGLIGIBLE = 1e-9  # posterior density, relative to its peak, beyond which the grid need not reach


class Posterior:
    """The distribution of the mean accuracy given `(right, samples)` of each problem; at least one problem."""

    def __init__(self, counts: Sequence[tuple[float, int]]):
        self.counts = Counter(counts)
        self.single = all(samples == 1 for _, samples in self.counts)
        if self.single:
            right = sum(right * times for (right, _), times in self.counts.items())
            self.parameters = (0.5 + right, 0.5 + len(counts) - right)
            return
        angles = np.linspace(0, np.pi / 2, COARSE + 2)[1:-1]
        density = self._density(angles, CORRELATIONS, WEIGHTS)
        kept = np.flatnonzero(density.max(axis=1) > NEGLIGIBLE)
        likely = density.max(axis=0) > NEGLIGIBLE
        first, last = kept[0] - 1, kept[-1] + 1
        ends = (angles[first] if first >= 0 else 0.0, angles[last] if last < COARSE else np.pi / 2)
        angles = np.linspace(*ends, POINTS + 2)[1:-1]
        weights = self._density(angles, CORRELATIONS[likely], WEIGHTS[likely]).sum(axis=1)
        self.means = np.sin(angles) ** 2
        self.cumulative = (np.cumsum(weights) - weights / 2) / weights.sum()

    def _density(self, angles: np.ndarray, correlations: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Posterior density of the mean's angle and the correlation, relative to its peak. (points, correlations)"""
        mean = np.sin(angles)[:, None] ** 2  # (points, 1)
        spread = 1 / correlations - 1  # (correlations)
        total = np.log(weights)  # uniform in the angle
        rising = _Rising(mean * spread, (1 - mean) * spread, spread)
        for (right, samples), times in self.counts.items():
            total = total + times * rising.log_ratio(right, samples)
        return np.exp(total - total.max())

    def quantile(self, shares: np.ndarray) -> np.ndarray:
        """The means below which these shares of the posterior lie."""
        if self.single:
            return betaincinv(*self.parameters, shares)
        return np.interp(shares, self.cumulative, self.means)


class _Rising:
    """log B(alpha + right, beta + wrong) - log B(alpha, beta), by sums of logarithms that all counts share.

    For whole numbers it is a sum of log(alpha + i), i < right, of log(beta + i), i < wrong, less log(alpha + beta + i),
    i < samples: a third of the time of log-beta functions.
    """

    def __init__(self, alpha: np.ndarray, beta: np.ndarray, both: np.ndarray):
        self.parts = (alpha, beta, both)  # `both` is their sum, which depends on the correlation alone
        self.sums = tuple([np.zeros_like(part)] for part in self.parts)

    def log_ratio(self, right: float, samples: int) -> np.ndarray:
        if right != int(right):
            return betaln(self.parts[0] + right, self.parts[1] + samples - right) - betaln(*self.parts[:2])
        a, b, both = (self._sum(place, int(count)) for place, count in enumerate((right, samples - right, samples)))
        return a + b - both

    def _sum(self, place: int, count: int) -> np.ndarray:
        sums, part = self.sums[place], self.parts[place]
        while len(sums) <= count:
            sums.append(sums[-1] + np.log(part + (len(sums) - 1)))
        return sums[count]


def difference_points(first: Posterior, second: Posterior, correlations: np.ndarray) -> np.ndarray:
    """Equally likely values of the second mean less the first. (points,)

    The posteriors are joined by a Gaussian copula; `correlations` are equally likely values of how the two systems'
    results on a problem correlate (zero where they answered different problems).
    """
    rho = correlations[:, None, None]  # (correlations, 1, 1)
    normals = ndtri((np.arange(GRID) + 0.5) / GRID)
    others = rho * normals[:, None] + np.sqrt(1 - rho**2) * normals  # (correlations, GRID, GRID)
    return (np.interp(others, KNOTS, second.quantile(ndtr(KNOTS))) - first.quantile(ndtr(normals))[:, None]).ravel()


def likely_correlations(a: np.ndarray, b: np.ndarray, informative: int) -> np.ndarray:
    """Equally likely correlations of two systems' per-problem means, around the one seen. (CHANCES,)

    Fisher's transform: its standard error is 1 / sqrt(m - 3), where m counts the `informative` problems, those that
    are not either always or never solved by both systems. The estimate is drawn to zero by N / (N + 1), which
    simulation asked for.
    """
    spread = float(a.std() * b.std())
    seen = float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 0 else 0.0
    centre = math.atanh(min(max(seen, -NEARLY_ONE), NEARLY_ONE)) * len(a) / (len(a) + 1)
    normals = ndtri((np.arange(CHANCES) + 0.5) / CHANCES)
    return np.tanh(centre + normals / normals.std() / math.sqrt(max(informative - 3, 1)))
