"""Compare what a program gave with what was expected: LiveCodeBench's and EvalPlus's rules, on data only.

LiveCodeBench (`lcb_runner/evaluation/testing_util.py`): both outputs are stripped, split at newlines, and each line
stripped; the counts must agree, and each pair of lines must be equal as text or, field by field, as decimal numbers.
So "6.0" is right for "6", "True" is wrong for "1", and no tolerance is given. Returned values must be `==` to the
expected JSON value, where a tuple as the whole value counts as a list; so True is right for 1, and 6.0 for 6, and a
deque, an array, a set or a generator for no list.

EvalPlus (`evalplus/eval/__init__.py`): equal values are right; where the problem sets a tolerance, or the expected
value is made of floats (then 1e-6), values of one type and length within it (absolute) plus 1e-7 (relative) are too.
"""

import math
from decimal import Decimal, InvalidOperation
from itertools import zip_longest
from typing import Any

RELATIVE = 1e-7
FLOAT_TOLERANCE = 1e-6


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _decimals(line: str) -> list[Decimal] | None:
    try:
        return [Decimal(field) for field in line.split()]
    except InvalidOperation:
        return None


def same_output(got: bytes, expected: str) -> bool:
    """Whether a program's standard output is right, by LiveCodeBench's rule; output that is not UTF-8 is wrong."""
    try:
        got_text = got.decode("utf-8")
    except UnicodeDecodeError:
        return False
    if got_text == expected:
        return True
    for ours, theirs in zip_longest(_lines(got_text), _lines(expected)):
        if ours is None or theirs is None:
            return False
        if ours != theirs:
            numbers = _decimals(ours)
            if numbers is None or any(number.is_nan() for number in numbers):  # a signalling NaN raises when compared
                return False
            if numbers != _decimals(theirs):
                return False
    return True


def same_value(got: Any, expected: Any) -> bool:
    """Whether a returned value is right, by LiveCodeBench's rule. `got` holds built-in types only."""
    try:
        return (list(got) if type(got) is tuple else got) == expected
    except (RecursionError, ArithmeticError):  # a signalling NaN
        return False


def _all_floats(value: Any) -> bool:
    if type(value) in (list, tuple):
        return bool(value) and all(type(item) is float for item in value)
    return type(value) is float


def same_within(got: Any, expected: Any, atol: float) -> bool:
    """Whether a returned value is right, by EvalPlus's rule."""
    try:
        if got == expected:
            return True
    except (RecursionError, ArithmeticError):
        return False
    if atol == 0 and _all_floats(expected):
        atol = FLOAT_TOLERANCE
    if atol == 0 or type(got) is not type(expected):
        return False
    return _close(got, expected, atol)


def _close(got: Any, expected: Any, atol: float) -> bool:
    if type(expected) in (list, tuple):
        same_shape = type(got) in (list, tuple) and len(got) == len(expected)
        return same_shape and all(_close(ours, theirs, atol) for ours, theirs in zip(got, expected, strict=True))
    if not all(type(value) in (int, float, bool) for value in (got, expected)):
        return False
    try:
        ours, theirs = float(got), float(expected)
    except OverflowError:
        return False
    if math.isnan(ours) or math.isinf(ours) or math.isnan(theirs) or math.isinf(theirs):
        return ours == theirs
    return abs(ours - theirs) <= atol + RELATIVE * abs(theirs)
