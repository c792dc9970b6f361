"""Grades -> the figures of one benchmark, as JSON values, a terminal table and Markdown.

Everything is read off the grades themselves (`Grade.extra` may hold `vote`, `completion_tokens`, `completion_chars`,
`format_valid`), so that maths and code are summed up by the same lines.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.metrics import Estimate, clustered_mean, maj_at_k, pass_at_k, run_spread
from promptcot_mamba.records import Grade

Figures = dict[str, Any]
TITLES = [
    *("benchmark", "grader", "avg@n", "95% interval", "mean ± SD over runs", "problems", "n", "cut off", "no answer"),
]
POWERS_OF_TWO = (1, 2, 4, 8, 16, 32, 64)


def summarize(grades: Sequence[Grade], title: str, expected_problems: int | None = None) -> Figures:
    """The figures of one benchmark's grades. Unknown figures (SD of one run, format of unmarked rows) are None.

    Raises InputError for grades by two versions of a grader.
    """
    versions = sorted({grade.extra["grader_version"] for grade in grades if "grader_version" in grade.extra})
    if len(versions) > 1:
        raise InputError(f"{title}: grades by {' and '.join(versions)} together; grade all predictions again")
    problems: dict[str, dict[int, Grade]] = defaultdict(dict)
    for grade in grades:
        problems[grade.problem_id][grade.run] = grade
    right = {name: [float(grade.correct) for grade in runs.values()] for name, runs in problems.items()}
    spread = run_spread(
        {name: {run: float(grade.correct) for run, grade in runs.items()} for name, runs in problems.items()}
    )
    sizes = sorted(len(runs) for runs in problems.values())
    endings = Counter(grade.extra.get("ending", grade.reason) for grade in grades)
    has_votes = any("vote" in grade.extra for grade in grades)  # code has none
    return {
        "title": title,
        "benchmark": grades[0].benchmark,
        "grader": grades[0].grader,
        "grader_version": versions[0] if versions else None,
        # No mathematics that the grader reads: such a gold can only equal its own text.
        "unreadable_golds": {g.problem_id: g.extra["gold"] for g in grades if g.extra.get("gold_readable") is False},
        "problems": len(problems),
        "expected_problems": expected_problems,
        "samples": len(grades),
        "samples_per_problem": [sizes[0], sizes[-1]],
        "avg_at_n": _estimate(clustered_mean(right)),
        "over_runs": {"mean": spread.mean, "sd": _known(spread.sd), "by_run": spread.by_run},
        "pass_at_k": _pass_at_k(right, sizes[0]),
        "maj_at_k": {k: _vote(problems, k) for k in POWERS_OF_TWO[2:] if k <= sizes[0]} if has_votes else {},
        "majority": _vote(problems)["accuracy"] if has_votes else None,
        "rates": {
            "truncated": endings["truncated"] / len(grades),
            "no_answer": endings["no_answer"] / len(grades),
            "format_invalid": _format_rate(grades),
            "other": {name: count / len(grades) for name, count in sorted(endings.items()) if name not in _NAMED},
        },
        "no_thought": sum(grade.extra.get("thinking") == "none" for grade in grades) / len(grades),
        "length": _lengths(grades),
    }


_NAMED = ("right", "wrong", "answered", "truncated", "no_answer")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _estimate(estimate: Estimate) -> Figures:
    return {name: _known(value) if isinstance(value, float) else value for name, value in asdict(estimate).items()}


def _pass_at_k(right: dict[str, list[float]], n: int) -> dict[int, float]:
    """Unbiased pass@k for the powers of two that every problem has samples for."""
    counts = [(len(values), round(sum(values))) for values in right.values()]
    return {k: float(np.mean([pass_at_k(n, c, k) for n, c in counts])) for k in POWERS_OF_TWO if k <= n}


def _vote(problems: dict[str, dict[int, Grade]], k: int | None = None) -> Figures:
    """The share of problems that the vote of k of their samples solves (of all for None), and that of tied votes."""
    votes = [
        maj_at_k([grade.extra.get("vote") for grade in runs], [grade.correct for grade in runs], k or len(runs))
        for runs in (list(runs.values()) for runs in problems.values())
    ]
    return {name: float(np.mean([getattr(vote, name) for vote in votes])) for name in ("accuracy", "tied")}


def _format_rate(grades: Sequence[Grade]) -> float | None:
    marked = [grade.extra["format_valid"] for grade in grades if grade.extra.get("format_valid") is not None]
    return 1 - sum(marked) / len(marked) if marked else None


def _lengths(grades: Sequence[Grade]) -> Figures:
    """Mean and median length of right, wrong and cut-off completions, in tokens where rows tell them."""
    tokens = all(isinstance(grade.extra.get("completion_tokens"), int) for grade in grades)
    key = "completion_tokens" if tokens else "completion_chars"
    groups: dict[str, list[int]] = defaultdict(list)
    for grade in grades:
        if isinstance(grade.extra.get(key), int):
            groups["right" if grade.correct else "truncated" if _cut(grade) else "wrong"].append(grade.extra[key])
    return {
        "unit": "tokens" if tokens else "characters",
        **{
            name: {"mean": float(np.mean(values)), "median": float(np.median(values)), "samples": len(values)}
            for name, values in sorted(groups.items())
        },
    }


def _cut(grade: Grade) -> bool:
    return grade.extra.get("ending", grade.reason) == "truncated"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as text without its sign, a dash where it is unknown."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def interval(estimate: Figures) -> str:
    """`[low, high]` in percent."""
    return f"[{percent(estimate['low'])}, {percent(estimate['high'])}]"


def headline_rows(summaries: Sequence[Figures]) -> list[list[str]]:
    """The table's title row, then one row a benchmark."""
    rows = [TITLES]
    for figures in summaries:
        estimate, runs, (fewest, most) = figures["avg_at_n"], figures["over_runs"], figures["samples_per_problem"]
        expected = figures["expected_problems"]
        partial = expected is not None and expected != figures["problems"]
        rows.append(
            [
                figures["title"],
                figures["grader"],
                *(
                    ["-"] * 3
                    if figures.get("spared")
                    else [
                        percent(estimate["mean"]),
                        interval(estimate),
                        f"{percent(runs['mean'])} ± {percent(runs['sd'])}",
                    ]
                ),
                f"{figures['problems']} of {expected}" if partial else str(figures["problems"]),
                str(most) if fewest == most else f"{fewest}-{most}",
                percent(figures["rates"]["truncated"]),
                percent(figures["rates"]["no_answer"]),
            ]
        )
    return rows


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns for a terminal: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def render_markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same rows as a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" + "|--:" * (len(rows[0]) - 1) + "|", *lines[1:]])


def detail_lines(figures: Figures) -> list[str]:
    """What stands below the table for one benchmark."""
    lines = [f"{figures['title']} ({figures['grader']}):"]
    if figures.get("spared"):
        lines += [
            f"  majority {percent(figures['majority'])} of the problems, by the vote of all samples made",
            f"  spared   {figures['spared']:,} samples of problems that were decided without them; averages",
            "           over samples would be biased by that and are left out",
        ]
        return lines
    lines.append(f"  standard error {percent(figures['avg_at_n']['standard_error'])}, clustered by problem")
    lines.append("  pass@k   " + "  ".join(f"{k}: {percent(value)}" for k, value in figures["pass_at_k"].items()))
    if figures["maj_at_k"]:
        votes = figures["maj_at_k"].items()
        lines.append(
            "  maj@k    " + "  ".join(f"{k}: {percent(v['accuracy'])} (tied {percent(v['tied'])} %)" for k, v in votes)
        )
    by_run = figures["over_runs"]["by_run"].items()
    lines.append("  by run   " + " ".join(f"{run}:{percent(value)}" for run, value in by_run))
    length = figures["length"]
    parts = [f"{name} {length[name]['mean']:,.0f}" for name in ("right", "wrong", "truncated") if name in length]
    lines.append(f"  length   mean {length['unit']}: {', '.join(parts) or 'unknown'}")
    if golds := figures["unreadable_golds"]:
        lines.append(f"  golds    {len(golds)} compared as text only: " + ", ".join(map(repr, golds.values())))
    rates = figures["rates"]
    if rates["format_invalid"] is not None:
        lines.append(f"  format   {percent(rates['format_invalid'])} % not one closed thought and an answer")
    if figures.get("no_thought"):  # older figures do not tell
        lines.append(f"  thought  {percent(figures['no_thought'])} % of the samples have none and are graded whole")
    if rates["other"]:
        lines.append("  reasons  " + ", ".join(f"{name} {percent(share)} %" for name, share in rates["other"].items()))
    return lines
