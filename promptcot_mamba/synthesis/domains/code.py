"""Code: a chain stands for what its program prints on the problem's inputs, run in the sandbox."""

import operator
from collections.abc import Sequence

from promptcot_mamba.grading.code.extract import extract_program
from promptcot_mamba.grading.code.grading import SandboxPool
from promptcot_mamba.jsonl import Row
from promptcot_mamba.synthesis.code_agreement import FAILED, Prints, observe_programs, run_program
from promptcot_mamba.synthesis.domains.base import Domain

INSTRUCTION = (
    "Write a Python program that reads from standard input and prints to standard output. "
    "Give the whole program in one ```python block."
)


def describe(chain: Row, prints: Prints) -> Row:
    """The agreed tests; inputs on which programs fail are none."""
    pairs = zip(chain["inputs"], prints, strict=True)
    return {"tests": [{"input": given, "output": printed} for given, printed in pairs if printed is not FAILED]}


def check(row: Row, completions: Sequence[str], workers: int | None) -> list[bool]:
    inputs = [test["input"] for test in row["tests"]]
    wanted = tuple(test["output"] for test in row["tests"])
    programs = [extract_program(completion).code for completion in completions]
    with SandboxPool(workers) as pool:

        def passes(code: str | None) -> bool:
            return code is not None and pool.run(lambda box: run_program(box, code, inputs)) == wanted

        return [passes(code) for code in programs]


DOMAIN = Domain(INSTRUCTION, observe_programs, operator.eq, describe, check, source="code_inputs", carries=("inputs",))
