"""One prediction file -> grades, figures and the files beside it. What every `calc_acc` program runs."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from promptcot_mamba.benchmarks import BENCHMARKS, Benchmark, benchmark_of_source
from promptcot_mamba.benchmarks.math_scoring import GRADERS, grade_math, same_answers, write_audit
from promptcot_mamba.benchmarks.missing import Missing, find_missing
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math.gold import Gold
from promptcot_mamba.grading.metrics import compare_paired
from promptcot_mamba.grading.predictions import Prediction, add_confidence, read_predictions, warn_of_missing
from promptcot_mamba.grading.summary import (
    Figures,
    detail_lines,
    headline_rows,
    percent,
    render_markdown,
    render_table,
    summarize,
)
from promptcot_mamba.jsonl import write_json, write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.records import Grade
from promptcot_mamba.run_info import describe_run, read_sampling, side_path, was_stopped


@dataclass(frozen=True)
class Scored:
    """A graded file: predictions, their grades in the same order, and the runs and problems it lacks."""

    path: Path
    predictions: list[Prediction]
    grades: list[Grade]
    missing: Missing
    # Samples that were not made, since their problems' majorities were decided without them (or not yet: of a run that
    # has not ended, all that it lacks). Where there are any, those that were made are a biased choice.
    spared: int = 0

    def by_title(self) -> dict[str, list[Grade]]:
        """Grades by benchmark, in the registry's order."""
        found: dict[str, list[Grade]] = {}
        for name, benchmark in BENCHMARKS.items():
            grades = [grade for grade in self.grades if grade.benchmark == name]
            if grades:
                found[benchmark.title] = grades
        return found


def benchmarks_of(predictions: Sequence[Prediction], path: str | Path, chosen: Benchmark | None) -> list[Benchmark]:
    """Each prediction's benchmark: by its `source`, or the chosen one where it names none.

    Raises InputError, naming the line, for a missing or unknown source and for one of another benchmark than chosen.
    """
    found = []
    for prediction in predictions:
        where = f"{path}:{prediction.line}"
        if prediction.source is None:
            if chosen is None:
                known = ", ".join(source for benchmark in BENCHMARKS.values() for source in benchmark.sources)
                raise InputError(f"{where}: missing key 'source'; known sources: {known}")
            found.append(chosen)
            continue
        try:
            benchmark = benchmark_of_source(prediction.source)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if benchmark.kind != "math":
            raise InputError(
                f"{where}: source {prediction.source!r} is code; score it with scripts.calc_acc --benchmark"
            )
        found.append(benchmark)
    return found


def score_math_file(path: str | Path, chosen: Benchmark | None, grader: str, expected_runs: int | None) -> Scored:
    """Read and grade one file; with `chosen`, rows of other benchmarks in it are left out and counted.

    Raises InputError for unreadable rows, sources and golds.
    """
    predictions = read_predictions(path)
    benchmarks = benchmarks_of(predictions, path, chosen)
    if chosen is not None:
        kept = [place for place, benchmark in enumerate(benchmarks) if benchmark.name == chosen.name]
        if len(kept) < len(predictions):
            logger.info("%s: left out %d rows of other benchmarks", path, len(predictions) - len(kept))
        if not kept:
            sources = ", ".join(sorted({str(prediction.source) for prediction in predictions}))
            raise InputError(f"{path}: no row of {chosen.name}; sources found: {sources}")
        predictions, benchmarks = [predictions[i] for i in kept], [benchmarks[i] for i in kept]
    missing = find_missing(path, predictions, benchmarks, expected_runs)
    run = read_sampling(path)
    spared = (run.get("spared") or sum(map(len, missing.runs.values()))) if was_stopped(run) else 0
    if not spared or not run.get("complete", True):
        warn_of_missing(path, missing.runs)
    grades = grade_math(predictions, benchmarks, path, grader)
    add_confidence(path, predictions, grades)
    return Scored(Path(path), predictions, grades, missing, spared)


def write_scores(scored: Scored, config: dict[str, object], markdown: bool = False) -> list[Figures]:
    """Write X.grades.jsonl, X.metrics.json and X.audit.md (and X.metrics.md) beside X.jsonl; return the figures."""
    summaries = []
    for title, grades in scored.by_title().items():
        figures = summarize(grades, title, BENCHMARKS[grades[0].benchmark].expected_problems)
        figures["spared"] = scored.spared
        figures["by_grader"] = {name: sum(grade.extra[name] for grade in grades) / len(grades) for name in GRADERS}
        summaries.append(figures)
    write_jsonl(side_path(scored.path, "grades.jsonl"), (grade.to_row() for grade in scored.grades))
    document = {
        "summaries": summaries,
        "missing_runs": scored.missing.runs,
        "missing_problems": scored.missing.problems,
        "run": describe_run(config),
    }
    write_json(side_path(scored.path, "metrics.json"), document)
    audited = write_audit(side_path(scored.path, "audit.md"), scored.predictions, scored.grades)
    logger.info("strict and paper grader disagree on %d samples: %s", audited, side_path(scored.path, "audit.md"))
    if markdown:
        text = "\n".join([render_markdown(headline_rows(summaries)), "", "```", *_details(summaries), "```", ""])
        side_path(scored.path, "metrics.md").write_text(text, encoding="utf-8")
    return summaries


def _details(summaries: Sequence[Figures]) -> list[str]:
    lines = []
    for figures in summaries:
        graders = "  ".join(f"{name} {percent(share)}" for name, share in figures["by_grader"].items())
        lines += [*detail_lines(figures), *([] if figures["spared"] else [f"  graders  {graders}"])]
    return lines


def compare_files(first: Scored, second: Scored) -> dict[str, Figures]:
    """Second file minus first, problem by problem, by benchmark; what one problem does not tell is None.

    Raises InputError where the files share no benchmark, or no problem of those they share, where one id is of two
    problems, or where the samples of a file are a biased choice.
    """
    for one in (first, second):
        if one.spared:
            raise InputError(
                f"--compare: {one.path} was sampled with --stop_when_decided, so that it has a majority but no average "
                "to compare; make the rest of its samples (the same command with --stop_when_decided False)"
            )
    others = second.by_title()
    shared = {
        title: (_scores(own), _scores(others[title])) for title, own in first.by_title().items() if title in others
    }
    if not shared:
        raise InputError(f"{second.path}: no benchmark in common with {first.path}")
    refuse_other_golds(first, second)
    apart = [title for title, (a, b) in shared.items() if not a.keys() & b.keys()]
    if apart:
        ours, theirs = (", ".join(list(scores)[:3]) for scores in shared[apart[0]])
        message = (
            f"{second.path}: no problem of {apart[0]} in common with {first.path}: ids {theirs} here, {ours} there; "
            "sample both from one problem file, or give both the same ids"
        )
        if len(apart) == len(shared):
            raise InputError(message)
        logger.warning("%s", message)
    return {title: _json_values(asdict(compare_paired(*pair))) for title, pair in shared.items() if title not in apart}


def refuse_other_golds(first: Scored, second: Scored) -> None:
    """Raise InputError where a problem has two golds that are not equal: its id is of another problem in each file."""
    golds = {grade.problem_id: grade for grade in first.grades}
    for theirs in {grade.problem_id: grade for grade in second.grades}.values():
        ours = golds.get(theirs.problem_id)
        if ours is None or ours.benchmark != theirs.benchmark:
            continue
        rules = BENCHMARKS[ours.benchmark].rules
        one, other = ours.extra["gold"], theirs.extra["gold"]
        if not same_answers(one, other, Gold(one, rules)):
            raise InputError(
                f"{second.path}: the answer of problem {ours.problem_id} is {other!r:.60} here and {one!r:.60} in "
                f"{first.path}: not the same problem; sample both from one problem file"
            )


def _json_values(figures: Figures) -> Figures:
    """The figures with None for NaN, which JSON has not."""
    return {
        name: _json_values(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and math.isnan(value)
        else value
        for name, value in figures.items()
    }


def print_comparison(compared: dict[str, Figures]) -> None:
    """The table of what `compare_files` found."""
    rows = [["second - first", "first", "second", "difference", "95% interval", "p", "detectable", "problems"]]
    for title, figures in compared.items():
        gap, unpaired = figures["difference"], figures["unpaired_problems"]
        rows.append(
            [
                title,
                percent(figures["first"]),
                percent(figures["second"]),
                f"{100 * gap['mean']:+.1f}",
                "-" if gap["low"] is None else f"[{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]",
                "-" if figures["p_value"] is None else f"{figures['p_value']:.3f}",
                percent(figures["minimum_detectable"]),
                str(gap["problems"]) + (f" ({unpaired} unpaired)" if unpaired else ""),
            ]
        )
    print("", render_table(rows), sep="\n")
    print("detectable: the true difference this comparison would find at 5 % significance with 80 % power")


def _scores(grades: Sequence[Grade]) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for grade in grades:
        scores.setdefault(grade.problem_id, []).append(float(grade.correct))
    return scores


@dataclass
class Options:
    """What both maths programs ask for."""

    expected_runs: int | None
    strict_runs: bool
    grader: str
    compare: str | None
    markdown: bool


def run_math(path: str, chosen: Benchmark | None, options: Options) -> int:
    """Grade, print, write; the exit status is 1 where runs or problems are missing and `strict_runs` asks for them."""
    scored = score_math_file(path, chosen, options.grader, options.expected_runs)
    compared = None
    if options.compare:
        compared = compare_files(
            scored, score_math_file(options.compare, chosen, options.grader, options.expected_runs)
        )
    summaries = write_scores(scored, {"input_path": path, **asdict(options)}, options.markdown)
    print(render_table(headline_rows(summaries)), "", *_details(summaries), sep="\n")
    if compared is not None:
        print_comparison(compared)
        write_json(side_path(path, "compare.json"), compared)
    return 1 if scored.missing and options.strict_runs else 0
