"""Figures of graded runs: pass@k and maj@k, accuracy against thinking length, length histograms, losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl
from promptcot_mamba.report.evaluations import Evaluation
from promptcot_mamba.report.html import render_card, render_heading
from promptcot_mamba.report.plots import COLORS, Curve, draw_curves

QUANTILES = 8  # groups of equal size along the length axis
BINS = 24


def _curve(name: str, x: Sequence[float], y: Sequence[float], place: int) -> Curve:
    return Curve(name, x, y, COLORS[place % len(COLORS)])


def render_figures(evaluations: Sequence[Evaluation]) -> list[str]:
    """All figures that the grades allow, as markup."""
    pass_at, majority, by_length, lengths = [], [], [], []
    pairs = [(evaluation, name) for evaluation in evaluations for name in evaluation.figures]
    for place, (evaluation, name) in enumerate(pairs):
        figures, grades = evaluation.figures[name], evaluation.grades[name]
        label = f"{evaluation.model} · {figures['title']}"
        if len(figures["pass_at_k"]) > 1:
            pass_at.append(_series(label, figures["pass_at_k"], place))
        votes = {k: value["accuracy"] for k, value in figures["maj_at_k"].items()}
        if len(votes) > 1:
            majority.append(_series(label, votes, place))
        tokens = np.array([row["completion_tokens"] for row in grades if isinstance(row.get("completion_tokens"), int)])
        if len(tokens) == len(grades) >= 2 * QUANTILES:
            correct = np.array([row["correct"] for row in grades], dtype=float)
            by_length.append(_curve(label, *accuracy_by_length(tokens, correct), place))
            lengths.append(_curve(label, *length_histogram(tokens), place))
    drawn = [
        ("pass@k", pass_at, "k", "problems solved, %"),
        ("maj@k", majority, "k", "problems solved, %"),
        ("Accuracy against length", by_length, "tokens (medians of equal groups)", "right, %"),
        ("Lengths", lengths, "tokens", "samples, %"),
    ]
    return [
        part
        for title, curves, x_label, y_label in drawn
        if curves
        for part in (render_heading(title), render_card(draw_curves(curves, x_label, y_label)))
    ]


def _series(label: str, values: dict, place: int) -> Curve:
    ordered = sorted((int(k), 100 * value) for k, value in values.items())
    return _curve(label, [k for k, _ in ordered], [value for _, value in ordered], place)


def accuracy_by_length(tokens: np.ndarray, correct: np.ndarray) -> tuple[list[float], list[float]]:
    """Median length and percent right of QUANTILES groups of equal size, short to long."""
    groups = np.array_split(np.argsort(tokens, kind="stable"), QUANTILES)
    return [float(np.median(tokens[own])) for own in groups], [100 * float(correct[own].mean()) for own in groups]


def length_histogram(tokens: np.ndarray) -> tuple[list[float], list[float]]:
    """Middle of each bin and percent of samples in it; bins are equal up to the longest sample."""
    counts, edges = np.histogram(tokens, bins=BINS, range=(0, max(1, int(tokens.max()))))
    return ((edges[:-1] + edges[1:]) / 2).tolist(), (100 * counts / len(tokens)).tolist()


def render_losses(runs: dict[str, Path]) -> list[str]:
    """Training loss of each run (name -> its train_log.jsonl) against its steps, as markup."""
    curves = []
    for place, (name, path) in enumerate(runs.items()):
        rows = [row for row in read_jsonl(path) if "loss" in row]
        if not rows:
            raise InputError(f"{path}: holds no logged loss")
        curves.append(_curve(name, [row["step"] for row in rows], [row["loss"] for row in rows], place))
    if not curves:
        return []
    return [render_heading("Training loss"), render_card(draw_curves(curves, "step", "loss", log_y=True))]
