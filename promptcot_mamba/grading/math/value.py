"""Whether two arithmetic trees have the same value, everywhere both are defined.

Constants are compared exactly, or at 70 and then 200 digits. Trees with symbols are compared at fixed pseudo-random
points: two different expressions that agree at all of them do not occur by chance, and no simplifier has to succeed.
Where either tree counts (floors, factorials, binomials, alternating signs) symbols are whole numbers.
"""

import random
from fractions import Fraction
from functools import lru_cache
from typing import Any

from promptcot_mamba.grading.math.evaluate import Budget, Evaluator, NoValueError, TooBigError, Value
from promptcot_mamba.grading.math.tree import Node, symbols, walk

POINTS = 14
FAR_POINTS = 3  # the last ones lie far out, beyond the bends of max(42, x) and |x - 1000|
FAR = 40_000
COUNTING_POINTS = 60  # whole numbers: a floor or a root of two formulas may agree at all but a few
ENOUGH = 3  # points where both sides have a value
DIGITS = (70, 200)
WHOLE_LETTERS = frozenset("dijklmnpqrsNMK")  # letters that by custom stand for whole numbers
COUNTING = frozenset(["floor", "ceil", "binom", "gcd", "lcm"])
APPROXIMATE_DIGITS = 10  # a decimal with so many places may stand for the exact value it rounds


class UndecidedError(Exception):
    """Neither equal nor different could be shown within the bounds."""


def _counts(node: Node) -> bool:
    for part in walk(node):
        counting = part.kind in ("factorial", "sum", "prod") or (part.kind == "function" and part.args[0] in COUNTING)
        if counting and symbols(part):
            return True
        if part.kind == "pow" and symbols(part.args[1]) and part.args[0].kind == "neg":
            return True
    return False


def same_number(
    first: Node, second: Node, tolerance: float = 0.0, radians: bool = False, budget: Budget | None = None
) -> bool:
    """Whether two constants are equal; `tolerance` is the absolute error a decimal on either side may have.

    Raises UndecidedError where one of them has no value or none within the bounds.
    """
    plane = any(part == Node("const", ("i",)) for tree in (first, second) for part in walk(tree))
    for digits in DIGITS:
        at = Evaluator({}, digits, plane, radians, budget)
        try:
            a, b = at(first), at(second)
        except (NoValueError, TooBigError) as error:
            raise UndecidedError(str(error)) from None
        verdict = _same(at, a, b, digits)
        if verdict is not None:
            return verdict or _close(at, a, b, first, second, tolerance)
    return True  # the difference shrank with every digit: both are the same number, zero


def approximate(node: Node, budget: Budget | None = None) -> float:
    """A constant as a float. Raises UndecidedError where it has no real value within a float's range."""
    try:
        value = Evaluator({}, DIGITS[0], budget=budget)(node)
        return float(value)
    except (NoValueError, TooBigError, TypeError, OverflowError) as error:
        raise UndecidedError(str(error)) from None


def is_near(exact: Node, rounded: Node, budget: Budget | None = None) -> bool:
    """Whether a value said to be approximate is: right to its last place, or within one hundredth.

    What has no numeric value cannot be contradicted and passes.
    """
    if rounded.kind == "percent" and exact.kind not in ("percent", "unit"):
        exact, rounded = Node("mul", (exact, Node("num", (Fraction(100),)))), rounded.args[0]  # `1/3 \\approx 33 %`
    try:
        value, near = approximate(exact, budget), approximate(rounded, budget)
    except UndecidedError:
        return True
    return abs(value - near) <= max(0.51 * 10.0 ** -min(_places(rounded), 300), abs(value) / 100)


def _same(at: Evaluator, a: Value, b: Value, digits: int) -> bool | None:
    """True, False, or None where more digits are needed."""
    if isinstance(a, float) or isinstance(b, float):
        return isinstance(a, float) and isinstance(b, float) and a == b
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    x, y = at.real(a), at.real(b)
    gap = abs(x - y)
    if gap <= at.tiny * max(abs(x), abs(y)) and (x != 0 or y != 0):
        return True
    return None if gap <= at.tiny else False


def _close(at: Evaluator, a: Value, b: Value, first: Node, second: Node, tolerance: float) -> bool:
    """Whether a decimal on one side is near enough: within the benchmark's tolerance, or a long correct rounding."""
    if isinstance(a, float) or isinstance(b, float):
        return False
    places = max(_places(first), _places(second))
    decimal = places > 0 or any(part.kind == "decimal" for tree in (first, second) for part in walk(tree))
    allowed = tolerance * 1.01 if decimal else 0.0
    gap = abs(at.real(a) - at.real(b))
    if places >= APPROXIMATE_DIGITS:
        return bool(gap <= max(at.mp.mpf(10) ** -places * 0.51, allowed))
    return bool(allowed and gap <= allowed)


def _places(node: Node) -> int:
    """Decimal places of a tree that is one decimal, 0 otherwise."""
    while node.kind in ("neg", "degrees", "percent", "unit"):
        node = node.args[0]
    return node.args[1] if node.kind == "decimal" else 0


@lru_cache(maxsize=4096)
def _coordinate(name: str, index: int, whole: bool) -> Fraction:
    """The value of one symbol at one point; the first points are positive, later ones of both signs."""
    source = random.Random(repr((name, index, whole)))  # repr: a name may hold lone surrogates
    if whole:
        return Fraction(source.randint(1, 9 + index))
    value = Fraction(source.randint(11, 999), source.randint(101, 499))
    if index >= POINTS - FAR_POINTS:
        value *= FAR
    return value if index < POINTS // 2 or source.random() < 0.4 else -value


def same_expression(first: Node, second: Node, scale: bool = False, budget: Budget | None = None) -> bool:
    """Whether two trees with symbols are equal at every point where both have a value.

    With `scale=True` they may differ by one constant factor (two equations of one curve). Raises UndecidedError
    where too few points have values.
    """
    if _counts(first) or _counts(second):
        return _agree(first, second, scale, budget, whole=True) and _agree_between(first, second, scale, budget)
    return _agree(first, second, scale, budget, whole=False)


def _agree_between(first: Node, second: Node, scale: bool, budget: Budget | None) -> bool:
    """Whether trees equal at whole points also are between them, where letters by custom are reals: floor(x) and x."""
    letters = symbols(first) | symbols(second)
    if all(name[0] in WHOLE_LETTERS for name in letters):
        return True
    try:
        return _agree(first, second, scale, budget, whole=False, mixed=True)
    except UndecidedError:
        return True  # factorials and binomials have no value there: the whole points decide


def _agree(first: Node, second: Node, scale: bool, budget: Budget | None, whole: bool, mixed: bool = False) -> bool:
    """Whether the trees agree at fixed points; `mixed`: letters that by custom count are whole, others are not."""
    names = symbols(first) | symbols(second)
    plane = any(part == Node("const", ("i",)) for tree in (first, second) for part in walk(tree))
    agreed = 0
    factor: tuple[Evaluator, Any] | None = None
    for index in range(COUNTING_POINTS if whole else POINTS):
        point = {name: _coordinate(name, index, whole or (mixed and name[0] in WHOLE_LETTERS)) for name in names}
        if whole and len(names) == 1:
            far = index >= COUNTING_POINTS - FAR_POINTS
            point = dict.fromkeys(names, Fraction(FAR * index + 7 if far else index + 1))
        at = Evaluator(point, DIGITS[0], plane, budget=budget)
        try:
            a, b = at(first), at(second)
        except NoValueError:
            continue
        except TooBigError:
            break
        if isinstance(a, float) or isinstance(b, float):
            raise UndecidedError("infinite")
        if scale:
            x, y = at.real(a), at.real(b)
            if abs(x) < at.tiny or abs(y) < at.tiny:
                if (abs(x) < at.tiny) != (abs(y) < at.tiny):
                    return False
                continue
            if factor is None:
                factor = (at, x / y)
            elif abs(x / y - factor[1]) > at.tiny * abs(factor[1]):
                return False
        elif _same(at, a, b, DIGITS[0]) is False:
            return False
        agreed += 1
    if agreed < ENOUGH:
        raise UndecidedError("too few points with values")
    return True
