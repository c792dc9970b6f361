"""Bare pairs: what a row must hold, and sentences around an answer."""

from __future__ import annotations

import pytest

from promptcot_mamba.errors import InputError
from scripts.bench.pairs import answer_in_prose, grade_pair, read_pair


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"pred": "3"}, "'gold' must be text"),
        ({"gold": "3", "pred": ["3"]}, "'pred' must be text"),
        ({"gold": "3", "pred": "3", "mode": "box"}, "'mode' must be answer or text"),
        ({"gold": "3", "pred": "3", "answer_type": "poem"}, "unknown 'answer_type'"),
        ({"gold": "3", "pred": "3", "tolerance": "small"}, "'tolerance' must be a number"),
    ],
)
def test_bad_pairs(pair: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        read_pair(pair)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is $5$.", "5"),
        ("Therefore $x \\geq 5$ is the solution.", "x \\geq 5"),
        ("Final Answer: the largest $n$ is 34.", "34"),
        ("$\\frac{1}{2} \\text{ meters}$", None),
        ("\\text{Evelyn}", None),
        ("5 cm", None),
        ("\\sqrt{2}", None),
        ("42 thousand", None),
        ("$5$ thirds", None),
        ("5 in binary", None),
        ("beyond 0", None),
    ],
)
def test_a_sentence_around_an_answer(text: str, answer: str | None):
    assert answer_in_prose(text) == answer


def test_numbers_are_taken_as_text_and_a_solution_as_its_box():
    assert grade_pair(read_pair({"gold": 5, "pred": 5.0})).equal
    assert grade_pair(read_pair({"gold": "so the sum is \\boxed{14{,}916}.", "pred": "14916"})).equal


def test_olympiadbench_names_bring_its_rules():
    pair = {"gold": "62.5%", "pred": "0.6250000000001"}
    assert grade_pair(read_pair({**pair, "answer_type": "Numerical"})).equal
    assert not grade_pair(read_pair({**pair, "pred": "0.6251", "answer_type": "Numerical"})).equal
    assert grade_pair(read_pair({"gold": "\\sqrt{2}", "pred": "1.414213562", "answer_type": "Numerical"})).equal


def test_no_prediction_is_no_answer():
    assert not grade_pair(read_pair({"gold": "5", "pred": None})).equal


def test_a_completion_is_never_searched_for_a_sentence():
    verdict = grade_pair(read_pair({"gold": "5", "pred": "The answer is 5.", "mode": "text"}))
    assert (verdict.equal, verdict.reason) == (False, "no_answer")
