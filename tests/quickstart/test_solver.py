"""The exact solver: every exercise of the family is worked to its own answer, all else refused with a reason."""

from __future__ import annotations

import pytest

from promptcot_mamba.chat_format import extract_question, split
from promptcot_mamba.quickstart.solver import UnreadableProblemError, UnsolvableProblemError, solve
from promptcot_mamba.quickstart.splits import draw_test_rows, draw_training_rows

MATHS = ("quickstart_single", "quickstart_composed")


def test_every_training_exercise_is_worked_as_its_author_worked_it():
    rows = draw_training_rows(dict.fromkeys(MATHS, 1500), "phase2", seed=3)
    for row in rows:
        chain, parts = solve(extract_question(row["prompt"])), split(row["completion"])
        assert chain.thought == parts.thought
        assert parts.answer.strip() == f"The answer is \\boxed{{{chain.answer}}}."
        assert chain.is_linked
        assert chain.in_reach


def test_every_test_problem_is_solved_to_its_gold():
    rows, _ = draw_test_rows(dict.fromkeys((*MATHS, "quickstart_unseen"), 60), seed=4)
    for row in rows:
        chain = solve(extract_question(row["prompt"]))
        assert str(chain.answer) == row["reference_solution"].rpartition("#### ")[2]
        assert list(chain.kinds) == row["kinds"]


@pytest.mark.parametrize(
    "question",
    [
        "",
        "Let A be 4 plus 5.",
        "Find A.",
        "Let A be 4 plus 5. Find A",
        "Let A be 4 plus 5. Find A. Find A.",
        " Let A be 4 plus 5. Find A.",
        "Let A be 4 plus 5.  Find A.",
        "Let A be 4 plus. Find A.",
        "Let A be 4 plus 5 plus 6. Find A.",
        "Let A be 04 plus 5. Find A.",
        "Let A be -4 plus 5. Find A.",
        "Let A be 4.5 plus 5. Find A.",
        "Let A be 12345 plus 5. Find A.",
        "Let A be the larger of 4 and 5 and 6. Find A.",
        "Let A be the product of 4 and 5. Find A.",
        "Let A be 4 plus 5. Let A be A plus 1. Find A.",
        "Let E be 4 plus 5. Find E.",
    ],
)
def test_what_is_no_problem_is_unreadable(question: str):
    with pytest.raises(UnreadableProblemError):
        solve(question)


@pytest.mark.parametrize(
    "question",
    [
        "Let A be 4 minus 5. Find A.",
        "Let A be the remainder of 4 divided by 0. Find A.",
        "Let A be B plus 5. Let B be 4 plus 5. Find B.",
        "Let A be A plus 5. Find A.",
        "Let A be 4 plus 5. Find B.",
    ],
)
def test_what_has_no_whole_answer_is_unsolvable(question: str):
    with pytest.raises(UnsolvableProblemError):
        solve(question)


@pytest.mark.parametrize(
    ("question", "answer", "linked", "in_reach"),
    [
        ("Let A be 47 plus 38. Let B be the digit sum of A. Find B.", 13, True, True),
        ("Let A be 47 plus 38. Let B be the digit sum of 47. Find B.", 11, False, True),
        ("Let A be 47 plus 38. Let B be A plus A. Find B.", 170, False, False),
        ("Let A be 47 plus 38. Let B be the digit sum of A. Find A.", 85, False, True),
        ("Let A be 4 plus 3. Let B be A minus 2. Let C be A plus 1. Find C.", 8, False, True),
        ("Let A be 47 plus 58. Find A.", 105, True, False),
        ("Let A be 4 times 12. Find A.", 48, True, False),
        ("Let A be 4 times 0. Find A.", 0, True, False),
        ("Let A be the remainder of 47 divided by 12. Find A.", 11, True, False),
        ("Let A be 1 plus 2. Let B be the remainder of 47 divided by A. Find B.", 2, True, False),
        ("Let A be the smaller of 100 and 9. Find A.", 9, True, False),
    ],
)
def test_values_links_and_reach(question: str, answer: int, linked: bool, in_reach: bool):
    chain = solve(question)
    assert (chain.answer, chain.is_linked, chain.in_reach) == (answer, linked, in_reach)
