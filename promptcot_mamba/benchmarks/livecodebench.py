"""LiveCodeBench, release_v5 from August 2024 on (2024-08-03 to 2025-01-04): 175 stdin and 104 functional problems.

Private tests are base64(zlib(pickle(JSON text))). They are read by an unpickler that refuses every class and
function: a pickle of a text names none, so whatever names one is not test data.
"""

import base64
import binascii
import io
import json
import pickle
import zlib
from typing import Any

from promptcot_mamba.benchmarks.benchmark import Benchmark, Form, Publisher, asked, text
from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code.tests import hash_tests
from promptcot_mamba.jsonl import Row

FIRST_DATE = "2024-08-01"  # the window of the paper's table; release_v5 ends on 2025-01-04
MAX_TEST_BYTES = 1 << 30  # of one problem, decompressed

# The published prompts' words, which scores depend on.
HEAD = (
    "You will be given a question (problem specification) and will generate a correct Python program that matches "
    "the specification and passes all tests.\n\nQuestion: {question}\n\n"
)
WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters.\n```python\n{starter}\n```\n\n"
)
FROM_STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
)


class _TextUnpickler(pickle.Unpickler):
    """Reads texts, numbers and containers of them; nothing that names code."""

    def find_class(self, module: str, name: str) -> Any:
        raise InputError(
            f"private_test_cases: the pickle asks for {module}.{name}; test data never does, not reading it"
        )


def decode_private_tests(encoded: str) -> list[Row]:
    """The private tests: a JSON list, plain or packed as base64(zlib(pickle(JSON text))).

    Raises InputError if they are neither, too large, or a pickle of anything but a text.
    """
    try:
        tests = json.loads(encoded)
    except json.JSONDecodeError:
        tests = None
    if tests is None:
        try:
            inflater = zlib.decompressobj()
            packed = inflater.decompress(base64.b64decode(encoded, validate=True), MAX_TEST_BYTES)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise InputError(f"private_test_cases: neither JSON nor base64 of a zlib stream ({error})") from None
        if inflater.unconsumed_tail or not inflater.eof:
            raise InputError(f"private_test_cases: truncated, or larger than {MAX_TEST_BYTES:,} bytes")
        try:
            content = _TextUnpickler(io.BytesIO(packed)).load()
        except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"private_test_cases: not a pickled text ({error})") from None
        if not isinstance(content, str):
            raise InputError(f"private_test_cases: expected a pickled text, found {type(content).__name__}")
        try:
            tests = json.loads(content)
        except json.JSONDecodeError as error:
            raise InputError(f"private_test_cases: the pickled text is not JSON ({error.msg})") from None
    return check_tests(tests, "private_test_cases")


def check_tests(tests: Any, column: str) -> list[Row]:
    """The tests of a column as they are; raises InputError unless each has an input and an output."""
    if not isinstance(tests, list) or not all(
        isinstance(test, dict) and {"input", "output"} <= set(test) for test in tests
    ):
        raise InputError(f"{column}: expected a list of {{input, output, testtype}}")
    return tests


def read_column(raw: Row, column: str) -> Any:
    """What a column holds as JSON text, or as it is where a tool has read it; raises InputError for other text."""
    value = raw.get(column)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise InputError(f"{column}: not JSON ({error})") from None


def make_tests(raw: Row) -> Row:
    """The content of a problem's test file: `input_output`, itself JSON text of `inputs`, `outputs`, `fn_name`.

    Raises InputError, naming the column, for one of another shape.
    """
    public = check_tests(read_column(raw, "public_test_cases"), "public_test_cases")
    tests = public + decode_private_tests(text(raw, "private_test_cases"))
    metadata = (read_column(raw, "metadata") if raw.get("metadata") else None) or {}
    if not isinstance(metadata, dict):
        raise InputError(f"metadata: expected an object, found {metadata!r:.80}")
    fn_name = metadata.get("func_name")
    content = {"inputs": [t["input"] for t in tests], "outputs": [t["output"] for t in tests], "fn_name": fn_name}
    return {"input_output": json.dumps(content)}


def frame_of(starter: str) -> str:
    """The words around a question, character for character as published: with starter code, or reading stdin."""
    return HEAD + (WITH_STARTER.replace("{starter}", starter) if starter else FROM_STDIN)


def convert(raw: Row, position: int) -> Row | None:
    """A row of release_v5; `position` in it is the published `global_id`. None for problems before the window."""
    date = text(raw, "contest_date")
    if date < FIRST_DATE:
        return None
    return {
        "global_id": position,
        "question_id": text(raw, "question_id"),
        "contest_id": text(raw, "contest_id"),
        "contest_date": date,
        **asked(text(raw, "question_content"), frame_of(raw.get("starter_code") or "")),
        "tests": {"fname": f"{position}.json", "md5": hash_tests(make_tests(raw))},
    }


def convert_released(raw: Row, _position: int) -> Row:
    """A row of the release as it is, its prompt rendered anew and taken apart where it has the words above."""
    body = extract_question(text(raw, "prompt")) + "\n\n"  # the blank line that ends a turn
    before, _, after = HEAD.partition("{question}")
    mark = next((words for words in (WITH_STARTER, FROM_STDIN) if words.partition("\n```python")[0] in body), None)
    if mark is None or not body.startswith(before):
        return {**raw, **asked(body, "")}
    question, words, rest = body.removeprefix(before).rpartition(mark.partition("\n```python")[0])
    return {**raw, **asked(question.removesuffix(after), f"{HEAD}{words}{rest}")}


LIVECODEBENCH = Benchmark(
    name="livecodebench",
    title="LiveCodeBench",
    kind="code",
    sources=("livecodebench",),
    expected_problems=279,
    n=8,  # arXiv 2505.22425: 8 samples a problem
    published=True,
    publisher=Publisher(
        licence="CC (problems by their contest sites)",
        origin="https://huggingface.co/datasets/livecodebench/code_generation_lite, release_v5",
        forms=(
            Form(
                "livecodebench/code_generation_lite",
                # In the order of the release: a problem's global_id is its position in all of them.
                (("test.jsonl",), ("test2.jsonl",), ("test3.jsonl",), ("test4.jsonl",), ("test5.jsonl",)),
                (), ("question_content", "question_id", "contest_id", "contest_date", "starter_code",
                     "public_test_cases", "private_test_cases", "metadata"),
                279, convert,
            ),
            Form(
                None, (), ("livecodebench_test.jsonl",),
                ("global_id", "question_id", "contest_date", "prompt", "tests"), 279, convert_released,
            ),
        ),
        make_tests=make_tests,
        tests_folder="livecodebench_v5_tests",
    ),
)  # fmt: skip
