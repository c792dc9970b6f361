"""Plots as SVG text: small, sharp at any size, to be put into a page or beside a Markdown file."""

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptcot_mamba.grading.metrics import Estimate

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLORS = ("#8a94a3", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
MOST_MARKS = 16  # points of a line that are drawn as such
MOST_LETTERS = 90  # of a legend's line, between its marks
FEWEST_COLUMNS = 5  # room is left for: two columns are no two walls
INK, SOFT, LINE, PAPER = "#1c2431", "#566174", "#dfe4eb", "#fffffe"  # no series has them: a page puts its own in
_THEME = {INK: "--ink", SOFT: "--soft", LINE: "--line", PAPER: "--paper"}


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    dashed: bool = False


def _new_figure(height: float, x_label: str, y_label: str = "") -> tuple[Any, Any]:
    """Figure and axes, drawn without a display and without any global state but the font settings."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(
        {"font.family": "sans-serif", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(9.2, height), layout="constrained", facecolor=PAPER)
        axes = figure.add_subplot(facecolor="none")
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(colors=SOFT, length=3)
    axes.grid(axis="both", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label, color=SOFT)
    axes.set_ylabel(y_label, color=SOFT)
    return figure, axes


def _to_svg(figure: Any) -> str:
    """The figure as an `<svg>` element, the same bytes for the same data.

    Its ids are its own, so that many stand on one page; ink and paper are the page's, in daylight and in the dark.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "promptcot-mamba"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for color, name in _THEME.items():
        text = text.replace(color, f"var({name}, {color})")
    own = f"p{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}-"
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}", text)
    return text.replace("<svg ", '<svg role="img" ', 1)


def plain(name: str) -> str:
    """A name as matplotlib shows it letter by letter: `$` would begin a formula."""
    return name.replace("$", r"\$")


def _name_lines(figure: Any, names: Sequence[str]) -> None:
    """The legend above the axes, where it covers no curve; as many columns as there is room for."""
    lines = figure.axes[0].get_lines()
    columns = max(1, min(len(names), MOST_LETTERS // max(map(len, names), default=1)))
    figure.legend(
        lines, list(map(plain, names)), loc="outside upper left", ncols=columns, frameon=False, labelcolor=INK
    )


def draw_curves(
    curves: Sequence[Curve], x_label: str, y_label: str, *, log_x: bool = False, log_y: bool = False
) -> str:
    """Lines over a common axis, as SVG; few points are marked, many are not. A logarithmic x axis is ticked at them."""
    figure, axes = _new_figure(3.6, x_label, y_label)
    for curve in curves:
        style = {"linestyle": "--", "linewidth": 1.2} if curve.dashed else {"linewidth": 1.8}
        marked = len(curve.x) <= MOST_MARKS and not curve.dashed
        axes.plot(curve.x, curve.y, color=curve.color, marker="o" if marked else None, markersize=4, **style)
    if log_x:
        axes.set_xscale("log")
        ticks = sorted({x for curve in curves for x in curve.x})
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.minorticks_off()
    if log_y:
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    _name_lines(figure, [curve.name for curve in curves])
    return _to_svg(figure)


def draw_shares(groups: Sequence[str], shares: Mapping[str, Sequence[Estimate]], colors: Mapping[str, str]) -> str:
    """Shares with their intervals, one row of dots a group; `shares` maps a series to one estimate a group."""
    figure, axes = _new_figure(0.62 * len(groups) + 1.0, "problems solved, %, with 95 % interval")
    step = 0.2
    for index, (name, estimates) in enumerate(shares.items()):
        shift = (index - (len(shares) - 1) / 2) * step
        rows = [row + shift for row in range(len(groups))]
        means = [100 * estimate.mean for estimate in estimates]
        reach = [
            [100 * (estimate.mean - estimate.low) for estimate in estimates],
            [100 * (estimate.high - estimate.mean) for estimate in estimates],
        ]
        style = {"fmt": "o", "markersize": 6, "capsize": 0, "elinewidth": 2.2}
        axes.errorbar(means, rows, xerr=reach, color=colors[name], label=plain(name), **style)
    axes.set_yticks(range(len(groups)), list(map(plain, groups)), color=INK)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper left", ncols=len(shares), frameon=False, labelcolor=INK)
    return _to_svg(figure)


def draw_steps(series: Mapping[str, Sequence[tuple[int, Estimate]]]) -> str:
    """Shares with their intervals over training steps, as SVG; `series` maps a name to (step, estimate) pairs."""
    figure, axes = _new_figure(3.8, "optimizer step", "right, %, with 95 % interval")
    for (name, points), color in zip(series.items(), (*COLORS[1:], COLORS[0]), strict=False):
        steps = [step for step, _ in points]
        axes.plot(steps, [100 * share.mean for _, share in points], color=color, marker="o", markersize=4, label=name)
        low, high = (
            [100 * bound for bound in bounds] for bounds in zip(*((s.low, s.high) for _, s in points), strict=True)
        )
        axes.fill_between(steps, low, high, color=color, alpha=0.12, linewidth=0)
    axes.set_ylim(-2, 102)
    _name_lines(figure, list(series))
    return _to_svg(figure)


def draw_bars(names: Sequence[str], values: Sequence[float], labels: Sequence[str], x_label: str) -> str:
    """One horizontal bar a name, from the top down, with its label at its end, as SVG."""
    figure, axes = _new_figure(0.42 * len(names) + 1.0, x_label)
    axes.barh(range(len(names)), values, color=COLORS[1], height=0.66)
    for row, (value, label) in enumerate(zip(values, labels, strict=True)):
        axes.annotate(plain(label), (value, row), xytext=(5, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(range(len(names)), list(map(plain, names)), color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.22 * max(values, default=0) or 1)
    axes.grid(axis="y", visible=False)
    return _to_svg(figure)


def draw_stacks(
    groups: Sequence[str], parts: Mapping[str, Sequence[int]], colors: Mapping[str, str], x_label: str, y_label: str
) -> str:
    """Columns of counts, stacked, as SVG; `parts` maps a series to one count a group, drawn from the bottom."""
    figure, axes = _new_figure(3.6, x_label, y_label)
    bottom = [0] * len(groups)
    for name, counts in parts.items():
        axes.bar(range(len(groups)), counts, bottom=bottom, color=colors[name], label=plain(name), width=0.8)
        bottom = [under + count for under, count in zip(bottom, counts, strict=True)]
    axes.set_xticks(range(len(groups)), list(map(plain, groups)))
    middle, half = (len(groups) - 1) / 2, max(len(groups), FEWEST_COLUMNS) / 2
    axes.set_xlim(middle - half - 0.2, middle + half + 0.2)
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside upper left", ncols=len(parts), frameon=False, labelcolor=INK)
    return _to_svg(figure)
