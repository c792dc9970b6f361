"""Maths: a chain stands for its final answer, compared by the strict grader."""

from collections.abc import Sequence

from promptcot_mamba.chat_format import MATH_INSTRUCTION
from promptcot_mamba.grading.math.answers import extract_answer
from promptcot_mamba.grading.math.gold import Gold
from promptcot_mamba.grading.math.strict import grade
from promptcot_mamba.jsonl import Row
from promptcot_mamba.synthesis.domains.base import Address, Domain


def observe(chains: Sequence[Row], _workers: int | None) -> dict[Address, str]:
    answers = {(chain["id"], chain["run"]): extract_answer(chain["completion"]).answer for chain in chains}
    return {address: answer for address, answer in answers.items() if answer is not None}


def same(a: str, b: str) -> bool:
    return grade(Gold(a), b).equal


def check(row: Row, completions: Sequence[str], _workers: int | None) -> list[bool]:
    answers = [extract_answer(completion).answer for completion in completions]
    return [answer is not None and same(row["answer"], answer) for answer in answers]


DOMAIN = Domain(MATH_INSTRUCTION, observe, same, lambda _chain, answer: {"answer": answer}, check)
