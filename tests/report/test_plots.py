"""Plots of whatever models and benchmarks are called."""

from __future__ import annotations

from promptcot_mamba.grading.metrics import Estimate
from promptcot_mamba.report.plots import Curve, draw_bars, draw_curves, draw_shares, draw_stacks, draw_steps

NAMES = [r"$\frac{", "cost $5 or $6_"]  # matplotlib would read what stands between as a formula
HALF = Estimate(0.5, 0.1, 0.4, 0.6, 10, 10)


def test_names_with_dollars_are_shown_as_they_are():
    colors = dict.fromkeys(NAMES, "#0072b2")
    drawn = [
        draw_curves([Curve(name, [1, 2], [1, 2], "#0072b2") for name in NAMES], "x", "y"),
        draw_shares(NAMES, {name: [HALF, HALF] for name in NAMES}, colors),
        draw_steps({name: [(1, HALF), (2, HALF)] for name in NAMES}),
        draw_bars(NAMES, [1.0, 2.0], NAMES, "x"),
        draw_stacks(NAMES, {name: [1, 2] for name in NAMES}, colors, "x", "y"),
    ]
    for svg in drawn:
        assert all(f">{name}</text>" in svg for name in NAMES)
