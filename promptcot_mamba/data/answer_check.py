"""Whether a trace's final answer is its row's reference answer, by the strict grader."""

from promptcot_mamba.grading.math import strict as math_strict
from promptcot_mamba.grading.math.answers import extract_boxed
from promptcot_mamba.grading.math.gold import Gold


def agrees(gold: str, answer: str) -> bool:
    """Compare the boxed answer of `answer` (the text after the thought) with the reference; no box, no agreement."""
    found = extract_boxed(answer)
    return found.answer is not None and math_strict.grade(Gold(gold), found.answer, found.listed).equal
