"""HumanEval and HumanEval+: references pass, mutants do not, and expected values stay away from the program."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code.extract import Wanted, extract_program
from promptcot_mamba.grading.code.grading import SandboxPool
from promptcot_mamba.grading.code.humaneval import (
    FunctionProblem,
    assemble_program,
    grade_function,
    is_right,
    read_problem,
    reference_values,
)
from promptcot_mamba.grading.code.tests import returned_value
from promptcot_mamba.grading.sandbox.sandbox import Limits
from tests.grading.mutants import make_mutants

PLUS_INPUTS = 2  # of each problem, in the default tests; all of them in the slow ones
MUTANTS_EACH = 4
PARTS = 8  # of the slowest test


@pytest.fixture(scope="module")
def pool():
    with SandboxPool(2) as made:
        yield made


def grade_all(pool: SandboxPool, work: list[tuple[FunctionProblem, str]]):
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda pair: pool.run(lambda sandbox: grade_function(sandbox, pair[0], pair[1])), work))


def shortened(row: dict, count: int) -> dict:
    """A HumanEval+ row with its first inputs of each kind only."""
    return {**row, "base_input": row["base_input"][:count], "plus_input": row["plus_input"][:count]}


def test_all_references_pass_their_checks(pool, benchmark_rows):
    rows = benchmark_rows("HumanEval.jsonl.gz")
    work = [(read_problem(row, "row"), row["prompt"] + row["canonical_solution"]) for row in rows]
    verdicts = grade_all(pool, work)
    assert len(verdicts) == 164
    assert [row["task_id"] for row, verdict in zip(rows, verdicts, strict=True) if not verdict.passed] == []


SHAPES = {
    "fenced": "Here:\n```python\n{head}{body}```",
    "unfenced": "{head}{body}",
    "in prose": "Sure, here is it:\n\n{head}{body}\nThis works in O(n) time.\n",
    "body": "{body}",
    "body fenced": "```python\n{body}```",
    "body and more": "{body}\n\nif __name__ == '__main__':\n    print(1)\n\n\nIt is fast.",
    "with an example": "```python\n{head}{body}```\nUsage:\n```python\nprint({entry}(input()))\n```",
    "never closed": "```python\n{head}{body}",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_references_pass_in_any_shape_of_answer(pool, benchmark_rows, shape):
    work = []
    for row in benchmark_rows("HumanEval.jsonl.gz")[::6]:
        problem = read_problem(row, "row")
        parts = {"head": row["prompt"], "body": row["canonical_solution"], "entry": problem.entry}
        found = extract_program(SHAPES[shape].format(**parts), "stop", Wanted(problem.entry, problem.head))
        work.append((problem, found.code or ""))
    verdicts = grade_all(pool, work)
    assert [one.task_id for (one, _), verdict in zip(work, verdicts, strict=True) if not verdict.passed] == []


def test_references_pass_the_first_plus_inputs(pool, benchmark_rows):
    rows = [shortened(row, PLUS_INPUTS) for row in benchmark_rows("HumanEvalPlus.jsonl.gz")]
    verdicts = grade_all(pool, [(read_problem(row, "row"), row["prompt"] + row["canonical_solution"]) for row in rows])
    assert len(verdicts) == 164
    assert all(verdict.passed for verdict in verdicts)


@pytest.mark.slow
@pytest.mark.timeout(7200)  # 15,000 processes each
@pytest.mark.parametrize("part", range(PARTS))
def test_all_references_pass_all_plus_inputs(pool, benchmark_rows, part):
    rows = benchmark_rows("HumanEvalPlus.jsonl.gz")[part::PARTS]
    verdicts = grade_all(pool, [(read_problem(row, "row"), row["prompt"] + row["canonical_solution"]) for row in rows])
    assert [row["task_id"] for row, verdict in zip(rows, verdicts, strict=True) if not verdict.passed] == []


def differing(pool: SandboxPool, problem: FunctionProblem, mutant: str) -> bool:
    """Whether a mutant's values are wrong on some input, found in one process and not by the grader.

    One that takes too long is left out: how long it takes depends on the machine.
    """
    limits = Limits(cpu_seconds=5, wall_seconds=20.0)

    def run(sandbox) -> bool:
        expected = reference_values(sandbox, problem)
        inputs = json.loads(problem.inputs)
        job = {"mode": "call", "entry": "_all", "prelude": False, "in_class": False}
        driver = f"\ndef _all(inputs):\n    return [{problem.entry}(*args) for args in inputs]\n"
        encoded = json.dumps([inputs])
        outcome = sandbox.run({**job, "before": "", "code": mutant + driver, "args": encoded}, limits=limits)
        values, failed = returned_value(outcome)
        if failed:
            return failed.reason != "timeout"
        pairs = zip(inputs, values, expected, strict=True)
        return not all(is_right(problem, args, value, right) for args, value, right in pairs)

    return pool.run(run)


def mutants_of(rows: list[dict], each: int) -> list[tuple[int, str]]:
    """`each` mutants of every row, spread over its function."""
    found = []
    for place, row in enumerate(rows):
        mutants = list(make_mutants(row["prompt"], row["canonical_solution"]))
        found += [(place, mutant) for mutant in mutants[:: max(1, len(mutants) // each)][:each]]
    return found


@pytest.mark.parametrize(
    ("step", "count", "each"),
    [(8, 3, 3), pytest.param(1, 1000, MUTANTS_EACH, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])],
    ids=["some", "all"],
)
def test_mutants_that_differ_are_rejected(pool, benchmark_rows, step, count, each):
    """By HumanEval+'s inputs, and by HumanEval's own checks where a mutant differs on one of their inputs."""
    plus = [shortened(row, count) for row in benchmark_rows("HumanEvalPlus.jsonl.gz")[::step]]
    base = [{**row, "plus_input": []} for row in plus]
    checks = benchmark_rows("HumanEval.jsonl.gz")[::step]
    for rows, graded in ((plus, plus), (base, checks)):
        problems = [read_problem(row, "row") for row in rows]
        graders = [read_problem(row, "row") for row in graded]
        mutants = mutants_of(rows, each)
        with ThreadPoolExecutor(2) as threads:
            differ = list(threads.map(lambda pair, known=problems: differing(pool, known[pair[0]], pair[1]), mutants))
        work = [(graders[place], mutant) for (place, mutant), wrong in zip(mutants, differ, strict=True) if wrong]
        rejected = [not verdict.passed for verdict in grade_all(pool, work)]
        print(f"{len(mutants)} mutants, {len(work)} differ, {sum(rejected)} rejected")
        assert len(work) >= 0.5 * len(mutants)
        assert sum(rejected) >= 0.99 * len(work)


PROBLEM = {
    "task_id": "Test/0",
    "prompt": "from typing import List\n\ndef helper(x):\n    return x\n\ndef double(x: int) -> int:\n    '2x'\n",
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(helper(3)) == 6\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def double(x: int) -> int:\n    return x + x", "right"),
        ("def double(x):\n    return List and helper(x) * 2", "right"),
        ("    return x + x", "right"),
        ("return x + x", "right"),
        ("double = lambda x: 2 * x", "right"),
        ("def double(x):\n    return 4", "wrong_answer"),
        ("def other(x):\n    return 2 * x", "wrong_answer"),
        ("def double(x):\n    raise ValueError", "runtime_error"),
        ("def double(x):\n    while True: pass", "timeout"),
        ("def check(candidate):\n    pass\ndef double(x):\n    return 0", "wrong_answer"),
        ("class A(int):\n    __eq__ = lambda s, o: True\ndef double(x):\n    return A(0)", "wrong_answer"),
        ("import sys\nsys.exit(0)", "no_value"),
        ("def double(x):\n    return 'candidate' in str(sys._getframe(1).f_locals)\nimport sys", "wrong_answer"),
    ],
)
def test_verdicts_by_check(sandbox, monkeypatch, code, reason):
    monkeypatch.setattr(sandbox, "limits", Limits(cpu_seconds=1, wall_seconds=5.0))
    assert grade_function(sandbox, read_problem(PROBLEM, "row"), code).reason == reason


FORGED = "import os\n\ndef double(x):\n    os.write(3, {})\n    os._exit(0)"
MANY = "b'{\"set\":[' + b','.join(b'%d' % (n * (2**61 - 1)) for n in range(1_000_000)) + b']}'"


@pytest.mark.parametrize("data", [MANY, "b'[' * 10**7", "b'[' + b'[],' * 3_000_000 + b'0]'", "b'{'"])
def test_what_a_call_returned_is_not_read_by_the_grader(sandbox, monkeypatch, data):
    """Bytes that would take it hours, or gigabytes, are the check's, whose process reads or refuses them."""
    read = []
    monkeypatch.setattr("promptcot_mamba.grading.code.values.decode_value", read.append)
    verdict = grade_function(sandbox, read_problem(PROBLEM, "row"), FORGED.format(data))
    assert (verdict.reason, read) == ("wrong_answer", [])


@pytest.mark.parametrize("returned", ["iter([x, x])", "deque([x, x])", "(x for _ in range(2))", "np.array([x, x])"])
def test_a_check_may_read_the_items_of_what_is_no_list(sandbox, returned):
    """As HumanEval/33 and /37 do: `tuple(candidate(...))`."""
    code = f"from collections import deque\nimport numpy as np\ndef double(x):\n    return {returned}"
    for test, passed in (("tuple(candidate(2)) == (2, 2)", True), ("candidate(2) == [2, 2]", False)):
        row = {**PROBLEM, "test": f"def check(candidate):\n    assert {test}\n"}
        assert grade_function(sandbox, read_problem(row, "row"), code).passed is passed


def test_the_program_s_process_holds_no_expected_value(sandbox, tmp_path):
    """A program that looks at all it can reach never finds the check's constant, nor the reference."""
    secret = "EXPECTED-9f3a"
    row = {**PROBLEM, "canonical_solution": f"    return '{secret}'\n"}
    row["test"] = f"def check(candidate):\n    assert candidate(1) == '{secret}'\n"
    code = (
        "import gc, sys\ndef double(x):\n    text = ''.join(repr(o)[:100000] for o in gc.get_objects() "
        "if type(o) in (dict, list, tuple))\n    place = text.find('EXPECTED' + '-')\n"
        "    return text[place:place + 13] if place >= 0 else 'nothing'\n"
    )
    assert grade_function(sandbox, read_problem(row, "row"), code).reason == "wrong_answer"


def test_programs_run_below_the_head_s_imports_and_helpers():
    problem = read_problem(PROBLEM, "row")
    assert assemble_program(problem, "def double(x):\n    return 1")["before"].endswith("return x\n\n")
    assert assemble_program(problem, "return 1")["code"].endswith("'2x'\n    return 1")


@pytest.mark.parametrize("key", ["entry_point", "canonical_solution", "test", "prompt"])
def test_a_row_without_a_key_is_named(key):
    row = {name: value for name, value in PROBLEM.items() if name != key}
    with pytest.raises(InputError, match="file:3"):
        read_problem(row, "file:3")


def test_a_broken_check_is_bad_input_not_a_wrong_answer(sandbox):
    row = {**PROBLEM, "test": "def check(candidate):\n    undefined_name\n"}
    with pytest.raises(InputError, match="check fails before"):
        grade_function(sandbox, read_problem(row, "row"), "def double(x):\n    return 4")
