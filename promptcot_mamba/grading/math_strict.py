"""Strict equivalence of two final answers: true where a careful reader would call them the same answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from promptcot_mamba.grading.gold import Gold

VERSION = "strict-1"
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?")


@dataclass(frozen=True)
class Verdict:
    """Whether two answers are equal, and by what: `text`, `number`, `value`, `undecided`..."""

    equal: bool
    reason: str


def grade(gold: Gold, answer: str, listed: tuple[str, ...] = ()) -> Verdict:
    """Compare an extracted answer with a gold. Never raises on any answer and never runs it."""
    left, right = _plain(gold.answer), _plain(answer)
    if left == right:
        return Verdict(True, "text")
    a, b = _number(left), _number(right)
    return Verdict(a is not None and a == b, "number")


def _plain(text: str) -> str:
    return re.sub(r"[\s$]|\\[,!;]|\\left|\\right|\^\\circ|\^\{\\circ\}|\.$", "", text)


def _number(text: str) -> Fraction | None:
    digits = text.replace("{,}", ",")
    if len(digits) > 400 or not _NUMBER.fullmatch(digits) or not any(sign.isdigit() for sign in digits):
        return None
    return Fraction(digits.replace(",", ""))
