"""Tests -> verdict: what a program must do, read from LiveCodeBench's files or from a statement's samples.

A test file is JSON with `input_output`, itself a JSON string of `inputs`, `outputs` and `fn_name` (null for programs
that read standard input). A problem row's `tests` names the file (`fname`) and the `md5` of `json.dumps` of it.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code import compare as code_compare
from promptcot_mamba.grading.code import values as code_values
from promptcot_mamba.grading.sandbox.sandbox import Outcome, Sandbox
from promptcot_mamba.jsonl import Row

# Raised whenever a verdict could change: cached verdicts of another version are not used.
GRADER_VERSION = "code-6"

TEST_TYPES = ("stdin", "functional")
FAR_LONGER, SHORT = 8, 65536
MAX_SHOWN = 200  # characters of a failed test's input and outputs
MAX_KIND = 60  # characters of a type's name, which a program may choose
SAMPLE_INPUT = re.compile(r"^Sample Input(?: (\d+))?[ \t]*$", re.MULTILINE)
SAMPLE_OUTPUT = re.compile(r"^Sample Output(?: (\d+))?[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class TestSet:
    """The tests of one problem. `entry` is the function to call, None for programs that read standard input."""

    __test__ = False  # not a class of tests, to pytest

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    entry: str | None
    md5: str
    kind: str = "livecodebench"  # or "inline", in the row; or "samples", the statement's own, not the benchmark's


@dataclass(frozen=True)
class TestResult:
    """One test's end: right, wrong_answer, no_value, or a sandbox's reason. `settled` is False for a time-out of a
    program that had CPU seconds left: another day it may end otherwise. `shown` is, of a test that is not passed, the
    beginning of its `input`, of what was `expected` and of what the program `got` to."""

    __test__ = False

    reason: str
    seconds: float
    detail: str = ""
    settled: bool = True
    shown: Row = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.reason == "right"


@dataclass(frozen=True)
class CodeVerdict:
    """A program's verdict: right if every test was. Testing stops at the first failure unless asked otherwise."""

    passed: bool
    reason: str
    tests: tuple[TestResult, ...] = field(default=())
    total: int = 0

    @property
    def seconds(self) -> float:
        return sum(test.seconds for test in self.tests)

    @property
    def settled(self) -> bool:
        return all(test.settled for test in self.tests)

    def to_row(self) -> Row:
        details = {str(index): test.detail for index, test in enumerate(self.tests) if test.detail}
        failed = next(({"test": index, **test.shown} for index, test in enumerate(self.tests) if not test.passed), None)
        return {
            "passed": self.passed,
            "reason": self.reason,
            "failed": failed,
            "tests": [test.reason for test in self.tests],
            "test_seconds": [round(test.seconds, 4) for test in self.tests],
            "total_tests": self.total,
            "details": details,
            "seconds": round(self.seconds, 4),
        }


def hash_tests(tests: Any) -> str:
    """The md5 by which a problem names its tests: of their content as Python writes it in JSON, not their spacing."""
    return hashlib.md5(json.dumps(tests).encode(), usedforsecurity=False).hexdigest()


def load_tests(row: Row, tests_dir: Path, where: str) -> TestSet:
    """The tests a problem row names, or holds (`inline_tests`).

    Raises InputError if the row names none, or the file is missing, malformed, or has another md5 than the row says.
    """
    named = row.get("tests")
    if isinstance(named, list):
        return inline_tests(row, where)
    if not isinstance(named, dict) or not isinstance(named.get("fname"), str):
        raise InputError(f"{where}: missing key 'tests' with 'fname' and 'md5'")
    if Path(named["fname"]).name != named["fname"]:
        raise InputError(f"{where}: tests.fname must be a bare file name, found {named['fname']!r}")
    path = tests_dir / named["fname"]
    try:
        parsed = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such tests file (named by {where}); set --tests_dir") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: malformed JSON ({error})") from None
    md5 = hash_tests(parsed)
    if named.get("md5") not in (None, md5):
        raise InputError(f"{path}: md5 {md5} is not the {named['md5']} named by {where}; fetch the tests again")
    return parse_tests(parsed, md5, str(path))


def inline_tests(row: Row, where: str) -> TestSet:
    """Tests that stand in the row itself: objects with `input`, `output` and perhaps LiveCodeBench's `testtype`.

    They call the function that the row names (`function_named`), else feed standard input; `testtype` says so too.
    Raises InputError if they are malformed, of both types, or call a function that the row does not name.
    """
    tests = row["tests"]
    pairs = [(test.get("input"), test.get("output")) if isinstance(test, dict) else (None, None) for test in tests]
    if not pairs or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise InputError(f"{where}: 'tests' must list objects with texts 'input' and 'output'")
    inputs, outputs = zip(*cast("list[tuple[str, str]]", pairs), strict=True)
    types = {test.get("testtype") for test in tests}
    if len(types) > 1 or not types <= {None, *TEST_TYPES}:
        raise InputError(f"{where}: 'testtype' of 'tests' must be one of {', '.join(TEST_TYPES)}, the same in all")
    entry = None if types == {"stdin"} else function_named(row, where)
    if entry is None:
        if types == {"functional"}:
            raise InputError(
                f"{where}: 'tests' are functional, and the row names no function; "
                "add 'fn_name', or 'metadata' with 'func_name'"
            )
        return TestSet(inputs, outputs, None, hash_tests(pairs), kind="inline")
    for text in (*inputs, *outputs):
        try:
            json_lines(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{where}: 'tests' that call {entry!r} need JSON, an argument a line: {text[:MAX_SHOWN]!r} ({error})"
            ) from None
    return TestSet(inputs, outputs, entry, hash_tests([pairs, entry]), kind="inline")


def function_named(row: Row, where: str) -> str | None:
    """The function a row says its tests call: `fn_name`, as a tests file does, or `func_name` in its `metadata`, as
    LiveCodeBench does. Raises InputError if one of them is something else."""
    metadata = row.get("metadata")
    try:
        metadata = json.loads(metadata or "{}") if isinstance(metadata, str) else metadata
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: 'metadata' must be an object or its JSON text ({error})") from None
    named = row.get("fn_name") or (metadata.get("func_name") if isinstance(metadata, dict) else None) or None
    if named is not None and not isinstance(named, str):
        raise InputError(f"{where}: 'fn_name' must be a function's name, found {named!r}")
    return named


def json_lines(text: str) -> list[Any]:
    """The values in a test's text, one a line. Raises JSONDecodeError."""
    return [json.loads(line) for line in text.split("\n")]


def parse_tests(parsed: Any, md5: str, where: str) -> TestSet:
    """The tests in a parsed file. Raises InputError if its layout is another than LiveCodeBench's."""
    try:
        body = parsed["input_output"]
        body = json.loads(body) if isinstance(body, str) else body
        inputs, outputs, entry = body["inputs"], body["outputs"], body.get("fn_name")
        texts = [("\n".join(text) if isinstance(text, list) else text) for text in (*inputs, *outputs)]
        if entry:
            for text in texts:
                json_lines(text)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise InputError(f"{where}: not a LiveCodeBench tests file ({type(error).__name__}: {error})") from None
    if not inputs or len(inputs) != len(outputs) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: {len(inputs)} inputs and {len(outputs)} outputs; expected as many, and texts")
    return TestSet(tuple(texts[: len(inputs)]), tuple(texts[len(inputs) :]), entry or None, md5)


def sample_tests(prompt: str) -> TestSet | None:
    """The sample inputs and outputs in an AtCoder statement, or None if there are none.

    A sample ends at its first blank line (what follows explains it), so an output with a blank line is cut short.
    """
    prompt = prompt.replace("\r\n", "\n")
    inputs = [_sample_after(prompt, match.end()) for match in SAMPLE_INPUT.finditer(prompt)]
    outputs = [_sample_after(prompt, match.end()) for match in SAMPLE_OUTPUT.finditer(prompt)]
    if not inputs or len(inputs) != len(outputs) or not all(outputs):
        return None
    return TestSet(tuple(inputs), tuple(outputs), None, hash_tests([inputs, outputs]), kind="samples")


def _sample_after(prompt: str, start: int) -> str:
    body = prompt[start:].lstrip("\n")
    return body.split("\n\n", 1)[0].rstrip("\n") + "\n"


def failure(outcome: Outcome) -> TestResult | None:
    """The result of a run that did not end well, None for one whose output is to be compared.

    An exit code alone fails nothing, as in LiveCodeBench, which catches SystemExit.
    """
    if outcome.reason is None:
        return None
    return TestResult(outcome.reason, outcome.cpu_seconds, outcome.detail, settled=outcome.settled)


def run_stdin_test(sandbox: Sandbox, code: str, given: str, expected: str) -> TestResult:
    outcome = sandbox.run({"mode": "stdin", "code": code, "prelude": True}, given.encode("utf-8", "surrogatepass"))
    right = code_compare.same_output(outcome.stdout, expected)
    result = failure(outcome) or TestResult("right" if right else "wrong_answer", outcome.cpu_seconds)
    return result if result.passed else show(result, given, expected, outcome.stdout)


def call_job(code: str, entry: str, args: list[Any] | tuple[Any, ...]) -> Row:
    """A job that calls `entry` of a program, as LiveCodeBench does: of its class Solution where it names one."""
    return {
        "mode": "call", "code": code, "entry": entry, "prelude": True, "in_class": "class Solution" in code,
        "args": code_values.encode_value(list(args)).decode(),
    }  # fmt: skip


def returned_value(outcome: Outcome, expected_size: int | None = None) -> tuple[Any, TestResult | None]:
    """The value a call returned, or the result of a call that returned none.

    A value far longer than the expected one (`expected_size` characters) is wrong unread: small text can make very
    large objects.
    """
    failed = failure(outcome)
    if failed:
        return None, failed
    if expected_size is not None and len(outcome.result) > FAR_LONGER * expected_size + SHORT:
        return None, TestResult("wrong_answer", outcome.cpu_seconds, "far longer than expected")
    try:
        return code_values.decode_value(outcome.result), None
    except code_values.ValueRefusedError as error:
        return None, TestResult("no_value", outcome.cpu_seconds, outcome.detail or str(error))


def run_call_test(sandbox: Sandbox, code: str, entry: str, given: str, expected: str) -> TestResult:
    outcome = sandbox.run(call_job(code, entry, json_lines(given)))
    value, failed = returned_value(outcome, len(expected))
    if failed:
        return show(failed, given, expected, outcome.result)
    if code_compare.same_value(value, json.loads(expected)):
        return TestResult("right", outcome.cpu_seconds)
    wrong = TestResult("wrong_answer", outcome.cpu_seconds, foreign_kind(value))
    return show(wrong, given, expected, outcome.result)


def show(result: TestResult, given: str, expected: str, got: bytes) -> TestResult:
    """The result of a failed test with the beginnings of its input, the right answer and the given one."""
    text = got[: 4 * MAX_SHOWN].decode("utf-8", "replace")
    beginnings = {"input": given[:MAX_SHOWN], "expected": expected[:MAX_SHOWN], "got": text[:MAX_SHOWN]}
    return replace(result, shown=beginnings)


def foreign_kind(value: Any) -> str:
    """What to say of a wrong value that is no data."""
    return (
        f"returned a {value.kind[:MAX_KIND]}, which equals no value" if isinstance(value, code_values.Foreign) else ""
    )


def run_tests(sandbox: Sandbox, code: str, tests: TestSet, stop_early: bool = True) -> CodeVerdict:
    """Run a program against its tests, each in a fresh process."""

    def run(given: str, expected: str) -> TestResult:
        if tests.entry is None:
            return run_stdin_test(sandbox, code, given, expected)
        return run_call_test(sandbox, code, tests.entry, given, expected)

    pairs = zip(tests.inputs, tests.outputs, strict=True)
    return collect(len(tests.inputs), (run(given, expected) for given, expected in pairs), stop_early)


def collect(total: int, results: Iterable[TestResult], stop_early: bool) -> CodeVerdict:
    """One verdict of many results, taking no more of them than needed."""
    taken = []
    for result in results:
        taken.append(result)
        if stop_early and not result.passed:
            break
    failed = [result for result in taken if not result.passed]
    return CodeVerdict(not failed, failed[0].reason if failed else "right", tuple(taken), total)
