"""Graded runs as the report reads them: figures by model and benchmark, checked against the grades they came from."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptcot_mamba.benchmarks import BENCHMARKS
from promptcot_mamba.cli import read_recipe
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, read_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.report.tables import Table
from promptcot_mamba.run_info import ROOT, read_sampling

# What of a sampling run must agree within one table, and with the row's recipe, or is said in a footnote; with the
# value of a run, or recipe, that does not name it.
SETTINGS = {
    "temperature": None, "top_p": None, "top_k": 0, "min_p": 0.0, "repetition_penalty": None, "max_len": None,
    "max_retries": None, "thinking_budget": None, "stop_on_loop": False, "quantization": None,
}  # fmt: skip
# What rows of different models do not share, but a row and its recipe do.
OWN_SETTINGS = {
    "thinking": "auto", "use_chat_template": False, "system_prompt": None, "chat_template": None,
    "chat_template_kwargs": None, "rope_scaling": None, "extra_body": None,
}  # fmt: skip
RECIPES = ROOT / "configs" / "models"


@dataclass
class Evaluation:
    """One model's graded runs: `figures` and `grades` by benchmark, and where the predictions lie."""

    model: str
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    grades: dict[str, list[Row]] = field(default_factory=dict)
    predictions: dict[str, Path] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkpoints: dict[str, str] = field(default_factory=dict)  # as --model_path named them
    spared: bool = False  # a benchmark of it was sampled with --stop_when_decided, and has no figures here


def load_evaluation(model: str, folder: Path) -> Evaluation:
    """Read every `X.metrics.json` of a folder with the `X.grades.jsonl` beside it.

    Raises InputError if there is none (samples stopped when decided have none to show), one is corrupt, two grade the
    same benchmark, or the figures are not those of the grades.
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
    if not evaluation.figures and not evaluation.spared:
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
            evaluation.spared = True
            continue
        if name in evaluation.figures:
            raise InputError(f"{path}: {evaluation.model} has a second file graded as {name}; move one away")
        own = [row for row in rows if row.get("benchmark") == name]
        check_figures(figures, own, path)
        evaluation.figures[name] = figures
        evaluation.grades[name] = own
        evaluation.predictions[name] = path.with_name(f"{stem}.jsonl")
        run = read_sampling(path.with_name(f"{stem}.jsonl"))
        samples, config = run.get("samples") or {}, run.get("config") or {}
        named = (SETTINGS | OWN_SETTINGS).keys() & samples
        evaluation.settings[name] = {setting: samples[setting] for setting in sorted(named)}
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
        for setting, unnamed in SETTINGS.items():
            named = [evaluation.settings[name] for evaluation in shown if evaluation.settings[name]]
            values = {str(settings.get(setting, unnamed)) for settings in named}
            if len(values) > 1:
                notes.append(f"{name}: sampled with {setting} {' and '.join(sorted(values))}")
    return notes


def note_settings(evaluation: Evaluation, benchmarks: Sequence[str]) -> list[str]:
    """Footnotes: what of a row was sampled otherwise than its recipe in configs/models, or else the benchmark, says."""
    path = RECIPES / f"{evaluation.model.casefold()}.yaml"
    recipe = read_recipe(path) if path.is_file() else {}
    recipe = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in recipe.items()}
    where: dict[str, list[str]] = {}
    for name in benchmarks:
        settings = evaluation.settings.get(name)
        if name not in BENCHMARKS or not settings:
            continue
        wanted = SETTINGS | OWN_SETTINGS | BENCHMARKS[name].sampling | recipe
        for setting, value in settings.items():
            if value != wanted[setting] and (setting in SETTINGS or recipe):
                where.setdefault(f"{setting} {value!r}, not {wanted[setting]!r}", []).append(name)
    return [f"{evaluation.model}: sampled with {said} ({', '.join(names)})" for said, names in where.items()]


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
