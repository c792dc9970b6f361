"""What samples of a few problems say of a mean accuracy, and of the difference of two: a beta-binomial posterior.

Each problem has an accuracy of its own, drawn from a beta distribution with mean m and intraclass correlation r; its
samples are right with that accuracy. Beforehand r is uniform and m has Jeffreys' prior, Beta(1/2, 1/2): its angle is
uniform. With one sample a problem r drops out and the posterior of m is Beta(1/2 + right, 1/2 + wrong). No normal
approximation is made, so intervals hold near 0 and 1, where t intervals over problems do not (coverage table in
docs/grading.md, made by scripts/bench/coverage.py).

Of two posteriors' difference a uniform r says too little where hardly anything is solved: both then allow for spreads
that neither has. There r is Beta(0.2, 1.4) beforehand, from 0.0005 on, chosen by simulation; many problems outweigh it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import betaincinv, betaln, ndtr, ndtri

# Intraclass correlations, close together near both ends, and the share of the uniform prior that each stands for.
CORRELATIONS = np.concatenate(
    [[0.0005, 0.002, 0.005, 0.01, 0.02, 0.035], np.linspace(0.05, 0.95, 19), [0.97, 0.985, 0.995]]
)
WEIGHTS = np.gradient(CORRELATIONS)
PAIRED_WEIGHTS = WEIGHTS * CORRELATIONS**-0.8 * (1 - CORRELATIONS) ** 0.4  # Beta(0.2, 1.4), cut off below 0.0005
POINTS = 257  # of the mean; equal steps of its angle (the mean is its sine squared) are finer near 0 and 1
COARSE = 63  # points of the first look, which finds where the posterior lies
STRIDE = 4  # its steps between the ends that a fine grid may have, so that posteriors share grids
GRID = 64  # points of each mean in a difference
KNOTS = np.linspace(-5, 5, 401)  # normals, between which a posterior's quantiles are straight enough
CHANCES = 5  # values that stand for what a correlation may be
NEARLY_ONE = 0.995
NEGLIGIBLE = 1e-9  # posterior density, relative to its peak, beyond which the grid need not reach


class Posterior:
    """The distribution of the mean accuracy given `(right, samples)` of each problem; at least one problem.

    `weights` say how likely each of CORRELATIONS is beforehand.
    """

    def __init__(self, counts: Sequence[tuple[float, int]], weights: np.ndarray = WEIGHTS):
        self.counts = Counter(counts)
        self.weights = weights
        self.single = all(samples == 1 for _, samples in self.counts)
        if self.single:
            right = sum(right * times for (right, _), times in self.counts.items())
            self.parameters = (0.5 + right, 0.5 + len(counts) - right)
            return
        kept = np.flatnonzero(self._density(0, COARSE + 1, COARSE) > NEGLIGIBLE)
        first = kept[0] // STRIDE * STRIDE
        last = min(-((-kept[-1] - 2) // STRIDE) * STRIDE, COARSE + 1)
        weights = self._density(first, last, POINTS)
        self.means = np.sin(_rising(first, last, POINTS).angles) ** 2
        self.cumulative = (np.cumsum(weights) - weights / 2) / weights.sum()

    def _density(self, first: int, last: int, points: int) -> np.ndarray:
        """Posterior density of the mean's angle between two steps of the coarse grid, up to a factor. (points)"""
        rising = _rising(first, last, points)
        total = np.log(self.weights)  # uniform in the angle
        for (right, samples), times in self.counts.items():
            total = total + times * rising.log_ratio(right, samples)  # (points, correlations)
        density = np.exp(total - total.max()).sum(axis=1)
        return density / density.max()

    def quantile(self, shares: np.ndarray) -> np.ndarray:
        """The means below which these shares of the posterior lie."""
        if self.single:
            return betaincinv(*self.parameters, shares)
        return np.interp(shares, self.cumulative, self.means)


class _Rising:
    """log B(alpha + right, beta + wrong) - log B(alpha, beta) on a grid of angles and correlations.

    For whole numbers it is a sum of log(alpha + i), i < right, of log(beta + i), i < wrong, less log(alpha + beta + i),
    i < samples: a third of the time of log-beta functions. Problems share these tables, and posteriors share grids.
    """

    def __init__(self, angles: np.ndarray):
        self.angles = angles
        mean, spread = np.sin(angles)[:, None] ** 2, 1 / CORRELATIONS - 1  # (points, 1), (correlations)
        self.parts = (mean * spread, (1 - mean) * spread, spread)  # alpha, beta, and their sum
        self.sums = tuple([np.zeros_like(part)] for part in self.parts)
        self.ratios: dict[tuple[float, int], np.ndarray] = {}

    def log_ratio(self, right: float, samples: int) -> np.ndarray:
        if right != int(right):
            return betaln(self.parts[0] + right, self.parts[1] + samples - right) - betaln(*self.parts[:2])
        if (right, samples) not in self.ratios:
            a, b, both = (self._sum(place, int(count)) for place, count in enumerate((right, samples - right, samples)))
            self.ratios[right, samples] = a + b - both
        return self.ratios[right, samples]

    def _sum(self, place: int, count: int) -> np.ndarray:
        sums, part = self.sums[place], self.parts[place]
        while len(sums) <= count:
            sums.append(sums[-1] + np.log(part + (len(sums) - 1)))
        return sums[count]


@lru_cache(maxsize=16)
def _rising(first: int, last: int, points: int) -> _Rising:
    """The tables between two steps of the coarse grid, whose ends are none of its points."""
    step = np.pi / 2 / (COARSE + 1)
    return _Rising(np.linspace(first * step, last * step, points + 2)[1:-1])


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
