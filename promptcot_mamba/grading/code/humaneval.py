"""HumanEval and HumanEval+: the function under test runs in a sandbox of its own, away from what is expected of it.

A publisher's `check(candidate)` holds the expected values, so it runs in another sandboxed process: each call it makes
is carried to a fresh process that holds the model's program, and the returned value's content is carried back.
HumanEval+ rows that list inputs are answered by the reference program in such a second process, and values compared
here by EvalPlus's rule.
"""

import hashlib
import json
import math
import re
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code import compare as code_compare
from promptcot_mamba.grading.code import values as code_values
from promptcot_mamba.grading.code.tests import (
    CodeVerdict,
    TestResult,
    collect,
    failure,
    foreign_kind,
    returned_value,
    show,
)
from promptcot_mamba.grading.code.unfenced import define_pattern
from promptcot_mamba.grading.sandbox.sandbox import Limits, Sandbox
from promptcot_mamba.jsonl import Row

TRUSTED_LIMITS = Limits(cpu_seconds=120, wall_seconds=7200.0, memory_mb=16384, output_mb=2048)
_reference_values: dict[str, list[Any]] = {}
_reference_lock = threading.Lock()


@dataclass(frozen=True)
class FunctionProblem:
    """One problem: the head the model was shown (imports, helpers, signature), the reference and the tests."""

    task_id: str
    head: str
    entry: str
    reference: str
    check: str | None
    inputs: str | None  # JSON list of argument lists
    atol: float

    @property
    def md5(self) -> str:
        parts = [self.head, self.entry, self.reference, self.check, self.inputs, self.atol]
        return hashlib.md5(json.dumps(parts).encode()).hexdigest()

    @property
    def before(self) -> str:
        """The head up to the function: its imports and helpers."""
        return re.split(rf"^(?=def {re.escape(self.entry)}\b)", self.head, maxsplit=1, flags=re.MULTILINE)[0]


def read_problem(row: Row, where: str) -> FunctionProblem:
    """A problem from its row: inputs where it lists them, else its `test` script.

    Raises InputError if a key is missing or the head does not parse or define the function.
    """
    head = row.get("question") or row.get("prompt")
    for key, value in {**row, "question": head}.items():
        if key in ("question", "entry_point", "canonical_solution") and not isinstance(value, str):
            raise InputError(f"{where}: {key!r} must be text")
    missing = [key for key in ("entry_point", "canonical_solution", "test") if key not in row]
    if missing or not head:
        raise InputError(f"{where}: missing key {', '.join(missing or ['question'])}; is this a HumanEval row?")
    if f"def {row['entry_point']}" not in head:
        raise InputError(f"{where}: 'question' must be the head that defines {row['entry_point']}")
    listed = "plus_input" in row and "base_input" in row
    inputs = json.dumps([*row["base_input"], *row["plus_input"]]) if listed else None
    task = str(row.get("task_id", where))
    atol = float(row.get("atol") or 0)
    test = None if listed else row["test"]
    return FunctionProblem(task, head, row["entry_point"], row["canonical_solution"], test, inputs, atol)


def assemble_program(problem: FunctionProblem, code: str) -> Row:
    """A job's `before` and `code`: a whole function runs below the head's imports and helpers, a bare body in it."""
    if define_pattern(problem.entry).search(code):
        return {"before": problem.before, "code": code}
    body = code if code.lstrip("\n")[:1].isspace() else textwrap.indent(code, "    ")
    return {"before": "", "code": f"{problem.head.rstrip()}\n{body}"}


def call_row(problem: FunctionProblem, code: str, args: bytes) -> Row:
    job = {"mode": "call", "entry": problem.entry, "prelude": False, "in_class": False, "args": args.decode()}
    return job | assemble_program(problem, code)


def grade_function(sandbox: Sandbox, problem: FunctionProblem, code: str, stop_early: bool = True) -> CodeVerdict:
    """The verdict on a program that should define `problem.entry`."""
    if problem.inputs is None:
        return _grade_by_check(sandbox, problem, code)
    expected = reference_values(sandbox, problem)
    inputs = json.loads(problem.inputs)
    return collect(len(inputs), _compare_all(sandbox, problem, code, inputs, expected), stop_early)


def _compare_all(
    sandbox: Sandbox, problem: FunctionProblem, code: str, inputs: list[list[Any]], expected: list[Any]
) -> Iterator[TestResult]:
    job = call_row(problem, code, b"")
    for args, right_value in zip(inputs, expected, strict=True):
        given, right = code_values.encode_value(args).decode(), code_values.encode_value(right_value).decode()
        outcome = sandbox.run({**job, "args": given})
        value, result = returned_value(outcome, len(right))
        if result is None:
            passed = is_right(problem, args, value, right_value)
            detail = "" if passed else foreign_kind(value)
            result = TestResult("right" if passed else "wrong_answer", outcome.cpu_seconds, detail)
        yield result if result.passed else show(result, given, right, outcome.result)


def is_right(problem: FunctionProblem, args: list[Any], value: Any, expected: Any) -> bool:
    """EvalPlus's rule; a zero of a polynomial (HumanEval/32) is right if the polynomial nearly vanishes there."""
    if problem.entry == "find_zero":
        if type(value) not in (int, float):
            return False
        try:
            at_value = sum(coefficient * math.pow(value, power) for power, coefficient in enumerate(args[0]))
        except (OverflowError, ValueError):
            return False
        return abs(at_value) <= problem.atol
    return code_compare.same_within(value, expected, problem.atol)


def reference_values(sandbox: Sandbox, problem: FunctionProblem) -> list[Any]:
    """What the reference program returns on every input. Raises InputError if it fails on one."""
    with _reference_lock:
        if problem.md5 in _reference_values:
            return _reference_values[problem.md5]
    args = code_values.encode_value(json.loads(problem.inputs or "[]")).decode()
    job = {"mode": "batch", "entry": problem.entry, "prelude": False, "args": args, "before": ""}
    outcome = sandbox.companion.run({**job, "code": problem.head + problem.reference}, limits=TRUSTED_LIMITS)
    if outcome.reason is not None:
        raise InputError(f"{problem.task_id}: the reference program fails: {outcome.reason} {outcome.detail}")
    values = [code_values.decode_value(line) for line in outcome.result.splitlines()]
    with _reference_lock:
        _reference_values[problem.md5] = values
    return values


def _grade_by_check(sandbox: Sandbox, problem: FunctionProblem, code: str) -> CodeVerdict:
    """Run the publisher's `check`, its candidate a stand-in whose calls run in `sandbox`.

    What a call returns is read in the check's process alone: nobody has said how long it may be.
    """
    calls: list[TestResult] = []
    job = call_row(problem, code, b"")

    def answer(args: bytes) -> bytes | None:
        outcome = sandbox.run({**job, "args": args.decode()})
        failed = failure(outcome)
        if failed is None and not outcome.result:
            failed = TestResult("no_value", outcome.cpu_seconds, outcome.detail)
        calls.append(failed or TestResult("right", outcome.cpu_seconds))
        return None if failed else outcome.result

    check = {"code": problem.head + problem.reference, "check": problem.check, "prelude": False, "before": ""}
    ending = sandbox.companion.run_check(check, answer, TRUSTED_LIMITS)
    passed = ending.reason is None and ending.result == b"true"
    failed = [call for call in calls if not call.passed]
    if not passed and not failed:  # the check refused the last value it was given
        if not calls:
            raise InputError(f"{problem.task_id}: its check fails before it calls the function: {ending.detail}")
        calls[-1] = replace(calls[-1], reason="wrong_answer")
        failed = [calls[-1]]
    return CodeVerdict(passed, "right" if passed else failed[0].reason, tuple(calls), len(calls))
