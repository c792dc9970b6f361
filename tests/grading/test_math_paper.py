"""The published rules, faults of judgement included, faults of execution left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptcot_mamba.grading.math.gold import Gold
from promptcot_mamba.grading.math.paper import extract_published, grade_answer, grade_completion


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("33", "33"),
        ("33", "3300"),  # the hundredfold passes
        ("33", "0.33"),  # and the hundredth
        ("70000", "70005"),  # 1e-4 of difference passes
        ("[1,2]", "(1,2)"),  # brackets are ignored
        ("\\frac{1}{2}", "0.5"),
        ("2,125", "2125"),
        ("\\text{Evelyn}", "Evelyn"),
        ("90^\\circ", "90"),
        ("5", "5 \\text{ cm}"),
        ("7", "seven"),
        ("C", "(C)"),
        ("2\\sqrt{2}", "\\sqrt{8}"),
        ("\\sqrt{2}", "1.41421"),
        ("2x+1", "y=2x+1"),
        ("x+y=3", "y+x=3"),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{bmatrix}1\\\\2\\end{bmatrix}"),
    ],
)
def test_accepted(gold: str, answer: str):
    assert grade_answer(Gold(gold), answer).equal


@pytest.mark.parametrize(
    ("gold", "answer"), [("33", "34"), ("(1,2)", "(2,1)"), ("5", ""), ("2x+1", "2x+2"), ("\\sqrt{2}", "1.42")]
)
def test_rejected(gold: str, answer: str):
    assert not grade_answer(Gold(gold), answer).equal


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>\\boxed{1}</think> so \\boxed{2}", "2"),
        ("<think>unfinished, perhaps \\boxed{3}", "3"),
        ("<think>unfinished: 1, 200", "200"),  # the last number
        ("The answer is 5.", "5"),
        ("final answer is $7$. I hope", "7"),
        ("nothing", ""),
    ],
)
def test_extraction(completion: str, answer: str):
    assert extract_published(completion) == answer


def test_an_unfinished_thought_is_searched_for_its_last_number():
    assert grade_completion(Gold("12"), "<think>it may be 12")[0].equal


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^9}}",
        'open("{marker}", "w")',
        "__import__('os').system('touch {marker}')",
        "(" * 3000,
        "\\frac" * 900,
        "(1," * 900 + "1" + ")" * 900,
        "x=" * 900,
        "\\text{" * 900,
        "9" * 100_000,
    ],
)
def test_nothing_runs_and_nothing_hangs(answer: str, tmp_path: Path):
    marker = tmp_path / "touched"
    completion = "\\boxed{" + answer.replace("{marker}", str(marker)) + "}"
    assert not grade_completion(Gold("5"), completion)[0].equal
    assert not marker.exists()
