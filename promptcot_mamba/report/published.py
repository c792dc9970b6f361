"""The paper's tables with our runs beside them: n, interval and grader, the published value, the difference."""

from collections.abc import Sequence
from dataclasses import dataclass

from promptcot_mamba.benchmarks import BENCHMARKS, fetched
from promptcot_mamba.report.evaluations import (
    Evaluation,
    find_mixtures,
    format_score,
    is_whole,
    note_settings,
    note_thoughts,
)
from promptcot_mamba.report.paper import PublishedTable
from promptcot_mamba.report.tables import Table

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Section:
    """A titled table and what must be said below it."""

    title: str
    table: Table
    notes: Sequence[str]


def render_published(published: PublishedTable, evaluations: Sequence[Evaluation]) -> Section:
    """One published table; each row is followed by our run of that name (or of the model that `same` says it is), an
    `ours` row also by "not measured".

    Names are compared without their case: `s1.1-7b`, as in configs/models, is the row S1.1-7B.
    """
    by_model = {evaluation.model.casefold(): evaluation for evaluation in evaluations}
    own_runs: dict[str, Evaluation] = {}
    for model in published.rows:
        same = by_model.get(published.same.get(model, "").casefold())
        if own_run := by_model.get(model.casefold()):
            own_runs[model] = own_run
        elif same and any(column in same.figures for column in published.columns):
            own_runs[model] = same
    rows: list[list[str]] = []
    own: set[int] = set()
    for model, values in published.rows.items():
        spreads = published.spread.get(model, (None,) * len(values))
        rows.append([f"{model} (paper)", *(_published(value, sd) for value, sd in zip(values, spreads, strict=True))])
        evaluation = own_runs.get(model)
        if evaluation or model in published.ours:
            ours = _our_rows(model, published, evaluation)
            own |= set(range(len(rows), len(rows) + len(ours)))
            rows += ours
    shown = list(own_runs.values())
    header = ["model", *(BENCHMARKS[column].title for column in published.columns)]
    notes = [f"Published values: {published.source}."]
    notes += [
        f"{evaluation.model} (here) is {_checkpoints(evaluation)}." for evaluation in shown if evaluation.checkpoints
    ]
    notes += find_mixtures(shown, published.columns)
    for evaluation in shown:
        notes += note_settings(evaluation, published.columns)
        notes += _note_samples(evaluation, published.columns) + note_thoughts(evaluation, published.columns)
    if published.note:
        notes.append(published.note)
    # Without a run of ours the table says nothing new; with one, rows of what was not run are no reason to scroll.
    folded = {place for place in own if set(rows[place][1:]) == {NOT_MEASURED}} if shown else set(range(len(rows)))
    return Section(published.title, Table(header, rows, own_rows=frozenset(own), folded_rows=frozenset(folded)), notes)


def render_further(evaluations: Sequence[Evaluation]) -> Section | None:
    """Our runs of benchmarks that are in no table of the papers; None where there are none."""
    columns = [name for name in fetched(published=False) if any(name in one.figures for one in evaluations)]
    if not columns:
        return None
    shown = [one for one in evaluations if any(name in one.figures for name in columns)]
    rows = [
        [one.model, *(format_score(one.figures[name]) if name in one.figures else NOT_MEASURED for name in columns)]
        for one in shown
    ]
    notes = [f"{one.model} is {_checkpoints(one)}." for one in shown if one.checkpoints]
    header = ["model", *(BENCHMARKS[name].title for name in columns)]
    return Section("Further benchmarks", Table(header, rows), notes + find_mixtures(shown, columns))


def _checkpoints(evaluation: Evaluation) -> str:
    """A row bears the paper's name whatever was sampled for it, so the table says what that was."""
    return " and ".join(f"the checkpoint {path}" for path in sorted(set(evaluation.checkpoints.values())))


def _note_samples(evaluation: Evaluation, columns: Sequence[str]) -> list[str]:
    """Code graded without its hidden tests is no result of the benchmark, and must not look like a missing run."""
    return [
        f"{BENCHMARKS[column].title} of {evaluation.model} is graded by its statements' samples alone; "
        "see everything graded."
        for column in columns
        if column not in evaluation.figures and f"{column}-samples" in evaluation.figures
    ]


def _published(value: float | None, sd: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if sd is None else f"{value:.1f} ± {sd:.1f}"


def _our_rows(model: str, published: PublishedTable, evaluation: Evaluation | None) -> list[list[str]]:
    if evaluation is None:
        return [[f"{model} (here)", *[NOT_MEASURED] * len(published.columns)]]
    scores, differences = [f"{model} (here)"], ["here − paper"]
    for column in published.columns:
        figures = evaluation.figures.get(column)
        scores.append(NOT_MEASURED if figures is None else format_score(figures))
        value = published.value(model, column)
        if value is not None and figures is not None and is_whole(figures):  # a part compares with nothing
            differences.append(f"{100 * figures['avg_at_n']['mean'] - value:+.1f}")
        else:
            differences.append("–")
    return [scores, differences]
