"""Figures: pass@k and maj@k, accuracy against length and confidence, length histograms, losses, what records hold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.metrics import Estimate
from promptcot_mamba.jsonl import read_jsonl
from promptcot_mamba.report.document import Plot, Section
from promptcot_mamba.report.evaluations import Evaluation
from promptcot_mamba.report.plots import COLORS, Curve, draw_curves, draw_shares

QUANTILES = 8  # groups of equal size along the length axis
BINS = 24


def _curve(name: str, x: Sequence[float], y: Sequence[float], place: int) -> Curve:
    return Curve(name, x, y, COLORS[(place + 1) % len(COLORS)])  # the first is a grey for baselines


def draw_figures(evaluations: Sequence[Evaluation]) -> list[Section]:
    """All figures that the grades allow."""
    pass_at, majority, by_length, lengths, by_confidence = [], [], [], [], []
    pairs = [(evaluation, name) for evaluation in evaluations for name in evaluation.figures]
    for place, (evaluation, name) in enumerate(pairs):
        figures, grades = evaluation.figures[name], evaluation.grades[name]
        label = f"{evaluation.model} · {figures['title']}"
        if len(figures["pass_at_k"]) > 1:
            pass_at.append(_series(label, figures["pass_at_k"], place))
        votes = {k: value["accuracy"] for k, value in (figures.get("maj_at_k") or {}).items()}
        if len(votes) > 1:
            majority.append(_series(label, votes, place))
        tokens = np.array([row["completion_tokens"] for row in grades if isinstance(row.get("completion_tokens"), int)])
        if len(tokens) == len(grades) >= 2 * QUANTILES:
            correct = np.array([row["correct"] for row in grades], dtype=float)
            by_length.append(_curve(label, *accuracy_by(tokens, correct), place))
            lengths.append(_curve(label, *length_histogram(tokens), place))
        sure = [(row["mean_logprob"], row["correct"]) for row in grades if row.get("mean_logprob") is not None]
        if len(sure) >= 2 * QUANTILES:
            confidence, correct = np.array(sure, dtype=float).T
            by_confidence.append(_curve(label, *accuracy_by(np.exp(confidence), correct), place))
    sure_of = "mean probability of a token (medians of equal groups)"
    drawn = [
        ("pass@k", pass_at, "k", "problems solved, %", True),
        ("maj@k", majority, "k", "problems solved, %", True),
        ("Accuracy against thinking length", by_length, "tokens (medians of equal groups)", "right, %", False),
        ("Confidence against correctness", by_confidence, sure_of, "right, %", False),
        ("Lengths of completions", lengths, "tokens", "samples, %", False),
    ]
    return [
        Section(title, [Plot(title, title, draw_curves(curves, x_label, y_label, log_x=log_x))])
        for title, curves, x_label, y_label, log_x in drawn
        if curves
    ]


def _series(label: str, values: dict, place: int) -> Curve:
    ordered = sorted((int(k), 100 * value) for k, value in values.items())
    return _curve(label, [k for k, _ in ordered], [value for _, value in ordered], place)


def accuracy_by(values: np.ndarray, correct: np.ndarray) -> tuple[list[float], list[float]]:
    """Median and percent right of QUANTILES groups of equal size, from the least values (lengths, confidence) on."""
    groups = np.array_split(np.argsort(values, kind="stable"), QUANTILES)
    return [float(np.median(values[own])) for own in groups], [100 * float(correct[own].mean()) for own in groups]


def length_histogram(tokens: np.ndarray) -> tuple[list[float], list[float]]:
    """Middle of each bin and percent of samples in it; bins are equal up to the longest sample."""
    counts, edges = np.histogram(tokens, bins=BINS, range=(0, max(1, int(tokens.max()))))
    return ((edges[:-1] + edges[1:]) / 2).tolist(), (100 * counts / len(tokens)).tolist()


def draw_record(results: Any) -> list[Plot]:
    """What a record's figures show better than its tables: throughput against length, arms beside one another."""
    if not isinstance(results, dict):
        return []
    return [*map(_draw_throughput, results.get("comparisons", [])), *_draw_arms(results.get("shares", {}))]


def _draw_throughput(comparison: dict[str, Any]) -> Plot:
    """One budget of the efficiency bench: measured lines and, dashed, what arithmetic says."""
    rows = comparison["rows"]
    lengths = [row["length"] for row in rows]
    curves = [
        Curve(f"{title}{word}", lengths, [row[f"{name}_{key}"] for row in rows], color, dashed=bool(word))
        for name, title, color in (("mamba2", "Mamba-2", COLORS[1]), ("attention", "attention", COLORS[2]))
        for key, word in (("tokens_per_second", ""), ("predicted", ", by arithmetic"))
    ]
    budget = f"{comparison['budget_gib']:g} GiB"
    svg = draw_curves(curves, f"tokens a chain, {budget}", "tokens/s", log_x=True, log_y=True)
    return Plot("throughput", f"Tokens a second against chain length under {budget}", svg)


def _draw_arms(shares: dict[str, dict[str, Any]]) -> list[Plot]:
    """The ablation's arms: `shares` maps an arm to an estimate by family."""
    if not shares:
        return []
    families = list(next(iter(shares.values())))
    series = {family: [Estimate(**arm[family]) for arm in shares.values()] for family in families}
    colors = dict(zip(families, COLORS[1:], strict=False))
    return [Plot("arms", "Problems solved by every arm", draw_shares(list(shares), series, colors))]


def draw_losses(runs: dict[str, Path]) -> list[Section]:
    """Training loss of each run (name -> its train_log.jsonl) against its steps."""
    curves = []
    for place, (name, path) in enumerate(runs.items()):
        rows = [row for row in read_jsonl(path) if "loss" in row]
        if not rows:
            raise InputError(f"{path}: holds no logged loss")
        curves.append(_curve(name, [row["step"] for row in rows], [row["loss"] for row in rows], place))
    if not curves:
        return []
    svg = draw_curves(curves, "step", "loss", log_y=True)
    return [Section("Training loss", [Plot("loss", "Training loss", svg)])]
