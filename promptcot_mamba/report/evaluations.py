"""Graded runs as the report reads them: figures by model and benchmark, checked against the grades they came from."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, read_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.report.tables import Table

# What of a sampling run must agree within one table, or is said in a footnote.
SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_len", "max_retries")


@dataclass
class Evaluation:
    """One model's graded runs: `figures` and `grades` by benchmark, and where the predictions lie."""

    model: str
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    grades: dict[str, list[Row]] = field(default_factory=dict)
    predictions: dict[str, Path] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkpoints: dict[str, str] = field(default_factory=dict)  # as --model_path named them


def load_evaluation(model: str, folder: Path) -> Evaluation:
    """Read every `X.metrics.json` of a folder with the `X.grades.jsonl` beside it.

    Raises InputError if there is none, one is corrupt, two grade the same benchmark, or the figures are not those of
    the grades.
    """
    evaluation = Evaluation(model)
    for path in sorted(folder.glob("*.metrics.json")):
        stem = path.name.removesuffix(".metrics.json")
        try:
            add_file(evaluation, path, stem)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            missing = f"no {error}" if isinstance(error, KeyError) else error
            raise InputError(
                f"{path}: not a metrics file with its grades ({missing}); grade {stem}.jsonl again"
            ) from None
    if not evaluation.figures:
        raise InputError(f"{folder}: no *.metrics.json; grade the predictions first (scripts.calc_acc)")
    return evaluation


def add_file(evaluation: Evaluation, path: Path, stem: str) -> None:
    """The summaries of one `X.metrics.json`, with what stands beside it. Raises KeyError, TypeError and the like for a
    document of another shape (torn, older, another tool's)."""
    summaries = json.loads(path.read_text(encoding="utf-8"))["summaries"]
    rows = read_jsonl(path.with_name(f"{stem}.grades.jsonl"))
    for figures in summaries:
        name = figures["benchmark"]
        if figures.get("spared"):
            logger.warning("%s: stopped when decided, so that it has no avg@n and is not shown", path)
            continue
        if name in evaluation.figures:
            raise InputError(f"{path}: {evaluation.model} has a second file graded as {name}; move one away")
        own = [row for row in rows if row.get("benchmark") == name]
        check_figures(figures, own, path)
        evaluation.figures[name] = figures
        evaluation.grades[name] = own
        evaluation.predictions[name] = path.with_name(f"{stem}.jsonl")
        run = read_run(path.with_name(f"{stem}.run.json"))
        samples, config = run.get("samples") or {}, run.get("config") or {}
        evaluation.settings[name] = {setting: samples[setting] for setting in SETTINGS if setting in samples}
        if "model_path" in config:
            evaluation.checkpoints[name] = config["model_path"]


def check_figures(figures: dict[str, Any], grades: Sequence[Row], path: Path) -> None:
    """Raises InputError unless the headline is the mean over problems of these grades; KeyError, TypeError or
    ValueError where they lack something that is shown."""
    if not grades:
        raise InputError(f"{path}: is not of the grades beside it (none of {figures['benchmark']} there); grade again")
    by_problem: dict[str, list[bool]] = {}
    for row in grades:
        by_problem.setdefault(row["problem_id"], []).append(bool(row["correct"]))
        if not isinstance(row["run"], int) or not isinstance(row["reason"], str):
            raise TypeError(f"a grade with run {row['run']!r} and reason {row['reason']!r}")
    figures_row("", figures)  # that it can be shown
    counted = (len(by_problem), len(grades))
    if counted != (figures["problems"], figures["samples"]):
        raise InputError(f"{path}: is not of the grades beside it ({counted} problems and samples there); grade again")
    mean = sum(sum(runs) / len(runs) for runs in by_problem.values()) / len(by_problem)
    if not math.isclose(mean, figures["avg_at_n"]["mean"], abs_tol=1e-9):
        raise InputError(f"{path}: its mean is not that of the grades beside it; one of them was edited, grade again")


def read_run(path: Path) -> dict[str, Any]:
    """What a prediction file was sampled with; empty where it was not sampled by this project."""
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: not what infer_longcot.py wrote ({error}); sample again") from None


def find_mixtures(evaluations: Sequence[Evaluation], benchmarks: Sequence[str]) -> list[str]:
    """Footnotes: benchmarks of one table that were graded or sampled differently."""
    notes = []
    for name in benchmarks:
        shown = [evaluation for evaluation in evaluations if name in evaluation.figures]
        graders = {evaluation.figures[name]["grader"] for evaluation in shown}
        if len(graders) > 1:
            notes.append(f"{name}: graded by {' and '.join(sorted(graders))}; the rows do not compare")
        versions = {evaluation.figures[name].get("grader_version") or "an unnamed version" for evaluation in shown}
        if len(versions) > 1:
            notes.append(f"{name}: graded by {' and '.join(sorted(versions))}; grade all rows again to compare them")
        for setting in SETTINGS:
            values = {str(evaluation.settings[name].get(setting)) for evaluation in shown if evaluation.settings[name]}
            if len(values) > 1:
                notes.append(f"{name}: sampled with {setting} {' and '.join(sorted(values))}")
    return notes


def note_thoughts(evaluation: Evaluation, benchmarks: Sequence[str]) -> list[str]:
    """Footnote: samples without a thought are graded on all they say, which a row of a thinking model is not."""
    grades = [grade for name in benchmarks for grade in evaluation.grades.get(name, ()) if grade.get("thinking")]
    whole = sum(grade["thinking"] == "none" for grade in grades)
    if not whole:
        return []
    share = f"{100 * whole / len(grades):.1f} % of the samples"
    return [f"{evaluation.model}: {share} have no thought and are graded on the whole answer"]


def format_score(figures: dict[str, Any]) -> str:
    """`35.2`, `[20.1, 50.3]`, `n=16 strict`, a line each, with what is missing said."""
    estimate = figures["avg_at_n"]
    fewest, most = figures["samples_per_problem"]
    text = f"{100 * estimate['mean']:.1f}"
    if estimate["low"] is not None and estimate["high"] is not None:
        text += f"\n[{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"
    text += f"\nn={most if fewest == most else f'{fewest}-{most}'} {figures['grader']}"
    if not is_whole(figures):
        text += f"\n{figures['problems']} of {figures['expected_problems']} problems"
    if refused := figures["rates"].get("other", {}).get("refused"):
        text += f"\n{100 * refused:.1f} % refused by the server"
    return text


def is_whole(figures: dict[str, Any]) -> bool:
    """Whether all problems of the benchmark were graded, as far as their number is known."""
    return figures["expected_problems"] in (None, figures["problems"])


def figures_row(model: str, figures: dict[str, Any]) -> list[str]:
    """What one benchmark's figures say of a model, a cell each."""
    rates, pass_at = figures["rates"], figures["pass_at_k"]
    best = max(pass_at, key=int)
    return [
        model,
        figures["title"],
        format_score(figures).replace("\n", " "),
        f"{100 * pass_at[best]:.1f} (k={best})",
        f"{100 * rates['truncated']:.1f}",
        f"{100 * rates['no_answer']:.1f}",
        f"{figures['problems']} x {figures['samples_per_problem'][1]}",
    ]


def figures_table(evaluations: Sequence[Evaluation]) -> Table:
    """Everything graded: one row a model and benchmark."""
    rows = [figures_row(one.model, figures) for one in evaluations for figures in one.figures.values()]
    header = ["model", "benchmark", "avg@n, 95 % interval", "pass@k", "cut off %", "no answer %", "problems x n"]
    return Table(header, rows, frozenset({0, 1}))
