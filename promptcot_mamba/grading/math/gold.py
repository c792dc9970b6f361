"""The gold side of a comparison: the answer, its type and the conventions its benchmark defines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

AnswerType = Literal["any", "integer", "numerical", "expression", "tuple", "interval"]
GOLD_MARK = "####"


@dataclass(frozen=True)
class AnswerRules:
    """How a benchmark compares answers.

    `type`: what a gold is ("any" reads it off the gold's own form). `tolerance`: absolute error allowed between a
    decimal and the gold, 0 for exact. `multiple`: the gold lists several answers, in any order.
    """

    type: AnswerType = "any"
    tolerance: float = 0.0
    multiple: bool = False


@dataclass(frozen=True)
class Gold:
    """A gold answer: LaTeX as published, the unit the benchmark states beside it, and its rules."""

    answer: str
    rules: AnswerRules = field(default_factory=AnswerRules)
    unit: str | None = None

    def typed(self, **changes: Any) -> Gold:
        """The same answer under changed rules."""
        return replace(self, rules=replace(self.rules, **changes))


def gold_after_mark(row: Row, rules: AnswerRules | None = None) -> Gold:
    """The gold of a row: what follows the last `####` of `reference_solution` or `solution`; without both, `answer`.

    Raises InputError if there is no such text or it is empty.
    """
    text = row.get("reference_solution", row.get("solution"))
    if text is None and str(row.get("answer") or "").strip():
        text = f"{GOLD_MARK} {row['answer']}"
    if not isinstance(text, str) or GOLD_MARK not in text:
        raise InputError(f"no gold answer: 'reference_solution' must end in '{GOLD_MARK} answer'")
    answer = text.rpartition(GOLD_MARK)[2].strip()
    if not answer:
        raise InputError(f"no gold answer after '{GOLD_MARK}' in 'reference_solution'")
    return Gold(answer, rules or AnswerRules())
