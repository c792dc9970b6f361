"""From samples to figures: votes by value, golds that cannot be read, and grades of two grader versions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from promptcot_mamba.benchmarks import BENCHMARKS
from promptcot_mamba.benchmarks.math_scoring import grade_math
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math.strict import VERSION
from promptcot_mamba.grading.predictions import Prediction
from promptcot_mamba.grading.summary import detail_lines, summarize
from promptcot_mamba.records import Grade
from promptcot_mamba.report.evaluations import Evaluation, find_mixtures

MATH500 = BENCHMARKS["math500"]


def grades_of(gold: str, boxes: list[str | None], grader: str = "strict") -> list[Grade]:
    row = {"reference_solution": f"#### {gold}"}
    texts = ["<think>\n</think>\n" + (f"\\boxed{{{box}}}" if box is not None else "no box") for box in boxes]
    predictions = [Prediction("math/1", run, text, row, run + 1) for run, text in enumerate(texts)]
    return grade_math(predictions, [MATH500] * len(boxes), "p.jsonl", grader)


def test_all_answers_vote_by_value():
    grades = grades_of("7", ["7.0", "x = 7", "\\frac12", "0.5", "1/2", "3", None, "\\text{or}"])
    assert [grade.extra["vote"] for grade in grades] == [
        *("right", "right", "=\\frac12", "=\\frac12", "=\\frac12", "=3", None, "=\\text{or}")
    ]
    # three halves outvote two sevens: by text each half would have stood alone, and right would have won
    assert summarize(grades, "MATH-500")["maj_at_k"][8]["accuracy"] == 0.0


def test_what_the_paper_grader_calls_right_may_be_several_votes():
    grades = grades_of("33", ["33", "3300", "33.0"], grader="paper")
    assert [grade.correct for grade in grades] == [True, True, True]
    assert [grade.extra["vote"] for grade in grades] == ["=33", "=3300", "=33"]


def test_a_gold_that_cannot_be_read_is_counted_and_listed(caplog: pytest.LogCaptureFixture):
    gold = "\\int_0^1 \\begin{cases} x \\end{cases}"
    with caplog.at_level("WARNING"):
        figures = summarize(grades_of(gold, ["7", gold]), "MATH-500")
    assert figures["unreadable_golds"] == {"math/1": gold}
    assert figures["avg_at_n"]["mean"] == 0.5
    assert any(line.strip().startswith("golds    1 compared as text") for line in detail_lines(figures))
    assert repr(gold) in caplog.text


def test_grades_of_two_versions_are_refused():
    first, second = grades_of("7", ["7", "8"])
    older = replace(second, extra={**second.extra, "grader_version": "strict-2"})
    assert summarize([first, second], "MATH-500")["grader_version"] == first.extra["grader_version"]
    with pytest.raises(InputError, match=f"strict-2 and {VERSION} together"):
        summarize([first, older], "MATH-500")


def test_a_table_of_two_versions_says_so():
    figures = summarize(grades_of("7", ["7"]), "MATH-500")
    rows = [
        Evaluation("new", {"math500": figures}),
        Evaluation("old", {"math500": {**figures, "grader_version": None}}),
    ]
    for row in rows:
        row.settings["math500"] = {}
    (note,) = find_mixtures(rows, ["math500"])
    assert note.startswith(f"math500: graded by an unnamed version and {VERSION}")
    assert find_mixtures(rows[:1], ["math500"]) == []
