"""Cutting the answer out of a completion."""

from __future__ import annotations

import pytest

from promptcot_mamba.grading.math.answers import extract_answer, extract_boxed, find_boxes, unbox

THOUGHT = "<think>\nperhaps \\boxed{1}\n</think>\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("It is \\boxed{5}.", "5"),
        ("\\boxed{3} no, \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\boxed{7}}", "7"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{a \\text{ if } x > \\{0\\}}", "a \\text{ if } x > \\{0\\}"),
        ("\\fbox{9}", "9"),
        ("\\boxed {4}", "4"),
        ("\\boxed 8", "8"),
        ("\\boxed{1} and then \\boxed{unclosed", "1"),
        ("\\boxed{ 12 }", "12"),
        ("\\boxed{4}, and not \\boxed{5}", "4"),
        ("The answer is $\\boxed{4}$ rather than $\\boxed{5}$.", "4"),
        ("It is not 5; it is \\boxed{4}", "4"),
        ("$\\boxed{42}$ is it. I used \\boxed{} notation.", "42"),
        ("$\\boxed{42}$, given as \\boxed{...} was asked for; \\boxed{ \\ldots } works too.", "42"),
        ("$$\\boxed{\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}}$$", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
    ],
)
def test_last_balanced_box_after_the_thought(answer: str, expected: str):
    assert extract_answer(THOUGHT + answer).answer == expected
    assert extract_boxed(answer).answer == expected


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("<think>\nit must be \\boxed{5}", "truncated"),
        ("<think>", "truncated"),
        (THOUGHT + "The answer is 5.", "no_answer"),
        (THOUGHT + "\\boxed{5", "no_answer"),
        (THOUGHT + "\\boxed{}", "no_answer"),
        (THOUGHT + "I put it in \\boxed{...}, which is \\boxed{}", "no_answer"),
        (THOUGHT + "It is not \\boxed{5}", "no_answer"),
        (THOUGHT, "no_answer"),
        ("", "no_answer"),
        ("I would say 12", "no_answer"),
    ],
)
def test_never_a_guess(completion: str, reason: str):
    found = extract_answer(completion)
    assert (found.answer, found.reason) == (None, reason)


def test_text_without_a_thought_is_all_answer():
    assert extract_answer("so \\boxed{5}").answer == "5"


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("\\boxed{1} and \\boxed{-2}", ("1", "-2")),
        ("\\(\\boxed{1}\\), \\(\\boxed{2}\\) or \\(\\boxed{3}\\)", ("1", "2", "3")),
        ("$\\boxed{1} \\quad \\text{and} \\quad \\boxed{2}$", ("1", "2")),
        ("First \\boxed{1}. Then we find \\boxed{2}", ("2",)),
        ("\\boxed{1} no no \\boxed{2}", ("2",)),
    ],
)
def test_a_row_of_boxes_is_kept_together(text: str, listed: tuple[str, ...]):
    assert extract_boxed(text).listed == listed
    assert extract_boxed(text).answer == ", ".join(listed)


def test_boxes_side_by_side_without_a_connector_are_a_correction():
    found = extract_boxed("\\boxed{41}. \\boxed{42}")
    assert (found.answer, found.listed) == ("42", ("41", "42"))


def test_boxes_do_not_overlap():
    assert [content for _, _, content in find_boxes("\\boxed{\\boxed{1}} \\boxed{2}")] == ["\\boxed{1}", "2"]


def test_unbox_keeps_a_box_that_is_a_part():
    assert unbox("x = \\boxed{5}") == "x = \\boxed{5}"


@pytest.mark.parametrize(
    "text", ["{" * 300_000, "\\boxed{" * 100_000, "\\boxed{5} and " * 30_000, "\\boxed " * 100_000]
)
def test_floods_take_one_pass(text: str):
    extract_boxed(text)
