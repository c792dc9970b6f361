"""Comparison, values and tests files: the parts of code grading that run no program."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter, OrderedDict, UserList, defaultdict, deque, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from itertools import count, product

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code.compare import same_output, same_value, same_within
from promptcot_mamba.grading.code.tests import load_tests, run_call_test, run_tests, sample_tests
from promptcot_mamba.grading.code.values import Foreign, ValueRefusedError, decode_value, encode_value
from tests.grading.lcb_files import RIGHT, SOLUTION


@pytest.mark.parametrize(
    ("got", "expected", "right"),
    [
        ("7\n", "7", True),
        ("  7  \n\n", "7\n", True),
        ("7.0", "7", True),
        ("7.00 1e2", "7 100", True),
        ("1  2", "1 2", True),
        ("a  b", "a b", False),
        ("07", "7", True),
        ("7\n8", "7 8", False),
        ("7\n\n8", "7\n8", False),
        ("True", "1", False),
        ("Yes", "YES", False),
        ("0.30000000000000004", "0.3", False),
        ("50000000000000001", "50000000000000000", False),
        ("nan", "nan", True),
        ("NaN", "nan", False),
        ("sNaN", "1", False),
        ("1e999999999999999999999", "1", False),
        ("", "7", False),
        ("", "", True),
        ("7\x0b", "7", True),
    ],
)
def test_output_by_livecodebench_s_rule(got, expected, right):
    assert same_output(got.encode(), expected) is right


def test_output_that_is_not_utf8_is_wrong():
    assert not same_output(b"\xff7", "7")


@pytest.mark.parametrize(
    ("got", "expected", "right"),
    [
        (1, 1, True), (True, 1, True), (6.0, 6, True), ((1, 2), [1, 2], True), ([(1, 2)], [[1, 2]], False),
        ("1", 1, False), (None, 0, False), ([1], [1, 2], False), (float("nan"), float("nan"), False),
    ],
)  # fmt: skip
def test_value_by_livecodebench_s_rule(got, expected, right):
    assert same_value(got, expected) is right


@pytest.mark.parametrize(
    ("got", "expected", "atol", "right"),
    [
        (0.1 + 0.2, 0.3, 0, True), (0.3001, 0.3, 0, False), (0.3001, 0.3, 1e-3, True), ([0.1 + 0.2], [0.3], 0, True),
        ((0.3,), [0.3], 0, False), (1, 1.0, 0, True), (1, 1.0000001, 0, False), ([1.0], [1.0, 2.0], 1, False),
        ("a", "b", 1, False), (float("inf"), float("inf"), 0, True), (float("nan"), 1.0, 0, False),
        (3, 4, 0, False), (10**400, 1.0, 1, False),
    ],
)  # fmt: skip
def test_value_by_evalplus_s_rule(got, expected, atol, right):
    assert same_within(got, expected, atol) is right


Point = namedtuple("Point", "x y")


class Colour(IntEnum):
    RED = 3


class Liar(list):
    def __eq__(self, other):
        return True

    def __iter__(self):
        return iter([7])

    def __getitem__(self, index):
        return 7

    __hash__ = None


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (value, value)
        for value in (
            None, True, 0, -(2**62), 2**64, -(16**500), 1.5, -0.0, float("inf"), "a\u00e9\ud800", b"\x00\xff", 1 + 2j,
            [], [1, [2.5, "x"], None], (), (1, (2,)), {}, {1: "a", (2, 3): [4]}, set(), {1, 2}, frozenset("ab"),
            [{"int": 3}],
        )
    ]
    + [
        (Point(1, 2), (1, 2)), (Colour.RED, 3), (Counter("aab"), {"a": 2, "b": 1}), (defaultdict(int, {1: 2}), {1: 2}),
        (OrderedDict(a=1), {"a": 1}), (Liar([1, 2]), [1, 2]), ({"k": Liar([5])}, {"k": [5]}),
    ],
)  # fmt: skip
def test_values_arrive_as_the_data_they_hold(value, arrives):
    found = decode_value(encode_value(value))
    assert found == arrives
    assert type(found) is type(arrives)


def test_numbers_that_equal_plain_ones_arrive_as_themselves():
    assert decode_value(encode_value([Decimal("2.50"), Fraction(-4, 2)])) == [2.5, -2]
    assert not same_value(decode_value(encode_value(Decimal("sNaN"))), 1)


NOT_DATA = [
    (object(), []), (len, []), (Ellipsis, []), (deque([1, 2]), [1, 2]), (range(3), [0, 1, 2]), ({1: 2}.keys(), [1]),
    ({1: 2}.items(), [(1, 2)]), (map(int, "12"), [1, 2]), ((n for n in [3]), [3]), (array("i", [4]), [4]),
    (count(), []), (iter([1]), [1]), (bytearray(b"a"), []), (UserList([1]), []),
]  # fmt: skip


@pytest.mark.parametrize(("value", "items"), NOT_DATA, ids=lambda value: type(value).__name__)
def test_other_things_than_data_arrive_as_what_equals_nothing(value, items):
    kind = type(value).__name__
    found = decode_value(encode_value([value]))[0]
    assert (type(found), found.kind, list(found)) == (Foreign, kind, items)
    assert not same_value(found, items)
    assert not same_within(found, items, 1e-6)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_value_that_holds_itself_ends(levels):
    value: list = []
    value += [value] * levels  # twice: as many paths as there are atoms
    assert type(decode_value(encode_value(value))) is Foreign


def test_numpy_and_sympy_values():
    numpy, sympy = pytest.importorskip("numpy"), pytest.importorskip("sympy")
    value = [numpy.int64(3), numpy.float32(0.5), numpy.bool_(True), numpy.str_("a"), numpy.array(7), sympy.Integer(8)]
    assert decode_value(encode_value(value)) == [3, 0.5, True, "a", 7, 8]
    assert list(decode_value(encode_value(numpy.array([[1, 2]])))) == [[1, 2]]


@pytest.mark.parametrize("expected", [3, [3], [[3]], 4, [4], [], [3, 3], [[3], [3]], "3", None, {}])
def test_a_numpy_array_of_one_element_is_compared_as_numpy_does(expected):
    numpy = pytest.importorskip("numpy")
    for value in (numpy.array([3]), [numpy.array([3])], numpy.array([[3]])):
        try:
            theirs = bool(value == expected)  # as LiveCodeBench compares
        except ValueError:
            theirs = False
        assert same_value(decode_value(encode_value(value)), expected) is theirs, value


def test_a_replaced_json_does_not_speak_for_the_value(sandbox):
    code = "import json\njson.dumps = lambda *a, **k: '7'\ndef f(x): return 0"
    assert run_call_test(sandbox, code, "f", "1", "7").reason == "wrong_answer"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"set": 3}', b'{"exec": "x"}', b'{"int": "7", "tuple": []}', b"[" * 100000, b"\xff", b"9" * 5000,
     b'{"dict": [[1]]}', b'{"set": [[1]]}', b'{"dict": [[[], 1]]}'],
    ids=range(11),
)  # fmt: skip
def test_forged_bytes_are_refused(data):
    with pytest.raises(ValueRefusedError):
        decode_value(data)


ONE_HASH = [n * (2**61 - 1) for n in range(10_000)]


@pytest.mark.parametrize(
    "body", [{"set": ONE_HASH}, {"frozenset": ONE_HASH}, {"dict": [[n, 0] for n in ONE_HASH]}, [[{"set": ONE_HASH}]]]
)
def test_items_chosen_to_have_one_hash_are_refused(body):
    assert len(set(map(hash, ONE_HASH))) == 1
    with pytest.raises(ValueRefusedError, match="of one hash"):
        decode_value(json.dumps(body).encode())


@pytest.mark.parametrize(
    "value",
    [set(range(100_000)), {str(n): n for n in range(50_000)}, set(product((-1, -2), repeat=8)), set(ONE_HASH[:256]),
     {(x, y) for x in range(-200, 200) for y in range(-200, 200)}, {n / 7 for n in range(-9999, 9999)}],
    ids=range(6),
)  # fmt: skip
def test_large_sets_and_dicts_arrive(value):
    assert decode_value(encode_value(value)) == value


def write_tests(folder, body, name="0.json") -> dict:
    parsed = {"input_output": json.dumps(body)}
    (folder / name).write_text(json.dumps(parsed, indent=1))
    return {"fname": name, "md5": hashlib.md5(json.dumps(parsed).encode()).hexdigest()}


def test_a_published_tests_file(tmp_path):
    named = write_tests(tmp_path, {"inputs": ["1\n2"], "outputs": ["3"], "fn_name": "add"})
    tests = load_tests({"tests": named}, tmp_path, "file:1")
    assert (tests.inputs, tests.outputs, tests.entry, tests.md5) == (("1\n2",), ("3",), "add", named["md5"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": [], "outputs": []}, "0 inputs"),
        ({"inputs": ["1"], "outputs": ["1", "2"]}, "1 inputs and 2 outputs"),
        ({"outputs": ["1"]}, "not a LiveCodeBench tests file"),
        ({"inputs": ["x"], "outputs": ["1"], "fn_name": "f"}, "not a LiveCodeBench tests file"),
        ({"inputs": [3], "outputs": [4]}, "texts"),
        ([], "not a LiveCodeBench tests file"),
    ],
)
def test_a_malformed_tests_file_is_named(tmp_path, body, message):
    named = write_tests(tmp_path, body)
    with pytest.raises(InputError, match=message):
        load_tests({"tests": named}, tmp_path, "file:1")


def test_a_missing_or_changed_tests_file_is_named(tmp_path):
    named = write_tests(tmp_path, {"inputs": ["1"], "outputs": ["1"]})
    with pytest.raises(InputError, match=r"1\.json: no such tests file"):
        load_tests({"tests": {**named, "fname": "1.json"}}, tmp_path, "file:1")
    with pytest.raises(InputError, match="md5"):
        load_tests({"tests": {**named, "md5": "0" * 32}}, tmp_path, "file:1")
    with pytest.raises(InputError, match="bare file name"):
        load_tests({"tests": {"fname": "../0.json", "md5": ""}}, tmp_path, "file:1")
    with pytest.raises(InputError, match="missing key 'tests'"):
        load_tests({}, tmp_path, "file:1")


def test_tests_in_the_row(tmp_path):
    tests = load_tests({"tests": [{"input": "1\n", "output": "2\n"}]}, tmp_path, "file:1")
    assert (tests.inputs, tests.outputs, tests.kind) == (("1\n",), ("2\n",), "inline")
    with pytest.raises(InputError, match="file:1"):
        load_tests({"tests": [{"input": "1"}]}, tmp_path, "file:1")


CALL = {"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}
STDIN = {"input": "1 2\n", "output": "3\n", "testtype": "stdin"}


@pytest.mark.parametrize(
    ("row", "entry"),
    [
        ({"tests": [CALL], "fn_name": "add"}, "add"),
        ({"tests": [CALL], "metadata": {"func_name": "add"}}, "add"),
        ({"tests": [CALL], "metadata": '{"func_name": "add"}'}, "add"),
        ({"tests": [{**CALL, "testtype": None}], "metadata": {"func_name": "add"}}, "add"),
        ({"tests": [STDIN], "metadata": "{}"}, None),
        ({"tests": [STDIN], "metadata": {"func_name": None}}, None),
        ({"tests": [STDIN], "metadata": "", "fn_name": None}, None),
        ({"tests": [STDIN]}, None),
        ({"tests": [{"input": "1 2\n", "output": "3\n"}], "metadata": ["of", "mine"]}, None),
    ],
)
def test_tests_in_the_row_say_what_they_call(sandbox, tmp_path, row, entry):
    tests = load_tests(row, tmp_path, "file:1")
    assert (tests.entry, tests.kind) == (entry, "inline")
    assert run_tests(sandbox, SOLUTION if entry else RIGHT, tests).passed
    assert not run_tests(sandbox, RIGHT if entry else SOLUTION, tests).passed
    other = {"tests": [{name: text for name, text in test.items() if name != "testtype"} for test in row["tests"]]}
    assert (load_tests(other, tmp_path, "file:1").md5 == tests.md5) is (entry is None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tests": [CALL]}, "the row names no function; add 'fn_name', or 'metadata' with 'func_name'"),
        ({"tests": [CALL], "metadata": "{}"}, "the row names no function"),
        ({"tests": [CALL], "metadata": "{"}, "'metadata' must be an object or its JSON text"),
        ({"tests": [CALL], "fn_name": ["add"]}, "'fn_name' must be a function's name"),
        ({"tests": [CALL, STDIN], "fn_name": "add"}, "'testtype' of 'tests' must be .* the same in all"),
        ({"tests": [{**CALL, "testtype": "unit"}], "fn_name": "add"}, "'testtype' of 'tests' must be one of stdin,"),
        ({"tests": [{**CALL, "input": "[1, 2"}], "fn_name": "add"}, "'add' need JSON, an argument a line: '\\[1, 2'"),
    ],
)
def test_tests_in_the_row_that_cannot_be_run_are_named(tmp_path, row, message):
    with pytest.raises(InputError, match=f"file:1: .*{message}"):
        load_tests(row, tmp_path, "file:1")


def test_every_stdin_statement_has_samples(benchmark_rows):
    rows = benchmark_rows("livecodebench_test.jsonl")
    atcoder = [row for row in rows if "Sample Input" in row["prompt"]]
    assert len(atcoder) == 175
    found = [sample_tests(row["prompt"]) for row in atcoder]
    assert all(found)
    first = found[0]
    assert (first.inputs, first.outputs) == (("4\n8 2 5 1\n", "8\n1 2 3 4 5 10 9 11\n"), ("3\n", "6\n"))
    assert all(sample_tests(row["prompt"]) is None for row in rows if row not in atcoder)


def test_very_large_integers_travel():
    value = 16**5000
    assert decode_value(encode_value([value])) == [value]
