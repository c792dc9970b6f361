"""The value of a tree at one point: exact fractions as long as possible, then 70 or more digits.

Every step is charged to a budget by the size of what it handles, and no intermediate may grow beyond fixed bounds:
towers of exponents and giant factorials raise TooBigError instead of running. No global state: each thread has its own
mpmath context.
"""

import hashlib
import math
import operator
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import partialmethod
from typing import Any

from mpmath.ctx_mp import MPContext

from promptcot_mamba.grading.math.tables import names
from promptcot_mamba.grading.math.tree import Node

MAX_BITS = 200_000
MAX_TERMS = 500
MAX_ROOT_BITS = 8000
MAX_FACTORIAL = 3000
BUDGET = 1_000_000  # about a second of work on one core, at most, for all evaluations of one comparison
Value = Any  # Fraction, an mpmath real or complex, or float infinity

_threads = threading.local()


class NoValueError(Exception):
    """The tree has no value here: undefined, or not arithmetic."""


class TooBigError(Exception):
    """A value or its computation exceeds the bounds."""


def context(digits: int) -> MPContext:
    """This thread's mpmath context of so many digits."""
    contexts = _threads.__dict__.setdefault("contexts", {})
    if digits not in contexts:
        contexts[digits] = MPContext()
        contexts[digits].dps = digits
    return contexts[digits]


class Budget:
    """What one comparison may spend on evaluation."""

    def __init__(self, units: int = BUDGET):
        self.units = units

    def spend(self, units: int) -> None:
        self.units -= units
        if self.units < 0:
            raise TooBigError("too much work")


class Evaluator:
    """Evaluates trees at one assignment of values to symbols.

    `digits`: working precision once exactness ends. `complex_plane`: whether roots and logarithms of negatives have
    values. `radians`: a degree is pi/180, not a unit that is dropped; within functions it always is.
    """

    def __init__(
        self,
        point: dict[str, Fraction],
        digits: int = 70,
        complex_plane: bool = False,
        radians: bool = False,
        budget: Budget | None = None,
    ):
        self.point = point
        self.mp = context(digits)
        self.tiny = self.mp.mpf(10) ** (20 - digits)
        self.complex_plane = complex_plane
        self.radians = radians
        self.budget = budget or Budget()

    def __call__(self, node: Node) -> Value:
        """The node's value. Raises NoValueError or TooBigError."""
        method = getattr(self, "_" + node.kind, None)
        if method is None:
            raise NoValueError(node.kind)
        value = method(*node.args)
        self._charge(value)
        return value

    def _charge(self, value: Value) -> None:
        self.budget.spend(20)
        if isinstance(value, Fraction):
            bits = value.numerator.bit_length() + value.denominator.bit_length()
            if bits > MAX_BITS:
                raise TooBigError("more than 200,000 bits")
            self.budget.spend(bits // 16 + ((bits // 512) ** 2 if value.denominator != 1 else 0))
        elif not isinstance(value, float):
            self.budget.spend(100)
            size = self.mp.mag(value) if value != 0 and self.mp.isfinite(value) else 0
            if not self.mp.isfinite(value) or abs(size) > 4 * MAX_BITS:
                raise TooBigError("a real number beyond 2^800,000")

    def real(self, value: Value) -> Any:
        """A value as an mpmath number."""
        if isinstance(value, Fraction):
            return self.mp.mpf(value.numerator) / value.denominator
        if isinstance(value, float):
            raise NoValueError("infinity in arithmetic")
        return value

    def _pair(self, left: Node, right: Node) -> tuple[Value, Value]:
        return self._alike(self(left), self(right))

    def _alike(self, a: Value, b: Value) -> tuple[Value, Value]:
        """Two values of one kind: both exact, or both of the context."""
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a, b
        return self.real(a), self.real(b)

    # Leaves

    def _num(self, value: Fraction, _places: int = 0) -> Value:
        return value

    _decimal = _num

    def _sym(self, name: str) -> Value:
        if name not in self.point:
            raise NoValueError(name)
        return self.point[name]

    def _const(self, name: str) -> Value:
        if name == "inf":
            return math.inf
        if name == "i":
            return self.mp.mpc(0, 1)
        return +self.mp.pi if name == "pi" else +self.mp.e

    # Arithmetic

    def _neg(self, node: Node) -> Value:
        return -self(node)

    def _folded(self, combine: Callable[[Any, Any], Any], *parts: Node) -> Value:
        """The parts combined from left to right, each partial result charged."""
        total = self(parts[0])
        for part in parts[1:]:
            a, b = self._alike(total, self(part))
            total = combine(a, b)
            self._charge(total)
        return total

    _add, _mul = partialmethod(_folded, operator.add), partialmethod(_folded, operator.mul)

    def _div(self, left: Node, right: Node) -> Value:
        a, b = self._pair(left, right)
        if b == 0 or (not isinstance(b, Fraction) and abs(b) < self.tiny):
            raise NoValueError("division by zero")
        return a / b

    def _unit(self, node: Node, _name: str = "") -> Value:
        return self(node)

    _percent = _unit

    def _degrees(self, node: Node) -> Value:
        value = self(node)
        return self.real(value) * self.mp.pi / 180 if self.radians else value

    def _pow(self, base: Node, exponent: Node) -> Value:
        return self.power(self(base), self(exponent))

    def power(self, base: Value, exponent: Value) -> Value:
        """base ** exponent, exact where both are rational and the result is."""
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            if exponent.denominator == 1:
                return self._whole_power(base, exponent.numerator)
            exact = self._exact_root(base, exponent.denominator)
            if exact is not None:
                return self._whole_power(exact, exponent.numerator)
        x, y = self.real(base), self.real(exponent)
        if x == 0:
            raise NoValueError("zero to a power that is not whole")
        if self.mp.im(x) == 0 and self.mp.re(x) < 0 and not self.complex_plane:
            if isinstance(exponent, Fraction) and exponent.denominator % 2:
                return (-1) ** (exponent.numerator % 2) * self.power(-base, exponent)
            raise NoValueError("an even root of a negative number")
        if abs(y) * (abs(self.mp.mag(x)) + 1) > 2 * MAX_BITS:
            raise TooBigError("a power beyond the bounds")
        return self.mp.power(x, y)

    def _whole_power(self, base: Fraction, exponent: int) -> Fraction:
        if base == 0 and exponent < 0:
            raise NoValueError("division by zero")
        if abs(base) not in (0, 1):
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits * abs(exponent) > MAX_BITS:
                raise TooBigError("a power beyond the bounds")
        elif exponent.bit_length() > 64:
            exponent = 2 + exponent % 2
        return base**exponent

    def _exact_root(self, base: Fraction, degree: int) -> Fraction | None:
        """The rational root of this degree, None where there is none."""
        if degree > 64 or (base < 0 and (degree % 2 == 0 or self.complex_plane)):
            return None
        if base.numerator.bit_length() + base.denominator.bit_length() > MAX_ROOT_BITS:
            return None
        sign = -1 if base < 0 else 1
        upper, lower = _whole_root(abs(base.numerator), degree), _whole_root(base.denominator, degree)
        return Fraction(sign * upper, lower) if upper is not None and lower is not None else None

    def _root(self, degree: Node, node: Node) -> Value:
        order = self(degree)
        if not isinstance(order, Fraction) or order == 0:
            raise NoValueError("a root of no rational degree")
        return self.power(self(node), 1 / order)

    def _factorial(self, node: Node, step: int) -> Value:
        value = self.whole(self(node))
        if value < 0:
            raise NoValueError("factorial of a negative number")
        if value > MAX_FACTORIAL:
            raise TooBigError("a factorial beyond the bounds")
        return Fraction(math.prod(range(value, 0, -step)) if step > 1 else math.factorial(value))

    def whole(self, value: Value) -> int:
        """A value as an integer; raises NoValueError where it is none."""
        if isinstance(value, Fraction) and value.denominator == 1:
            return value.numerator
        if not isinstance(value, (Fraction, float)) and self.mp.im(value) == 0 and abs(self.mp.mag(value)) < 400:
            nearest = self.mp.nint(self.mp.re(value))
            if abs(value - nearest) < self.tiny:
                return int(nearest)
        raise NoValueError("not a whole number")

    def _series(
        self, combine: Callable[[Any, Any], Any], total: Value, letter: str, first: Node, last: Node, term: Node
    ) -> Value:
        low, high = self.whole(self(first)), self.whole(self(last))
        if high - low > MAX_TERMS:
            raise TooBigError("a sum of more than 500 terms")
        outer = self.point
        for index in range(low, high + 1):
            self.point = {**outer, letter: Fraction(index)}
            a, b = self._alike(total, self(term))
            total = combine(a, b)
            self._charge(total)
        self.point = outer
        return total

    _sum = partialmethod(_series, operator.add, Fraction(0))
    _prod = partialmethod(_series, operator.mul, Fraction(1))

    def _determinant(self, *rows: tuple[Node, ...]) -> Value:
        if len(rows) != len(rows[0]) or len(rows) > 4:
            raise NoValueError("not a small square determinant")
        return self._minor([[self.real(self(cell)) for cell in row] for row in rows])

    def _minor(self, rows: list[list[Value]]) -> Value:
        if len(rows) == 1:
            return rows[0][0]
        minors = ([row[:column] + row[column + 1 :] for row in rows[1:]] for column in range(len(rows)))
        return sum((-1) ** column * rows[0][column] * self._minor(rest) for column, rest in enumerate(minors))

    # Functions

    def _apply(self, name: str, arguments: tuple[Node, ...]) -> Value:
        """An unknown function: some fixed smooth function of its arguments, chosen by its name."""
        total = self.mp.mpf(_hashed(name))
        for place, node in enumerate(arguments):
            total += self.real(self(node)) * _hashed(f"{name}{place}")
        return self.mp.sin(total) + 2

    def _function(self, name: str, arguments: tuple[Node, ...]) -> Value:
        radians, self.radians = self.radians, True
        values = [self(node) for node in arguments]
        self.radians = radians
        try:
            return apply_function(self, name, values)
        except (ZeroDivisionError, ValueError, OverflowError) as error:  # how mpmath says "outside the domain"
            raise NoValueError(f"{name}: {error}") from None


def apply_function(at: Evaluator, name: str, values: list[Value]) -> Value:
    """A named function of these values. Raises NoValueError for wrong arguments or a point outside its domain."""
    if name in ("max", "min") and values and all(isinstance(value, Fraction) for value in values):
        return max(values) if name == "max" else min(values)
    if name in ("gcd", "lcm") and values:
        return Fraction(getattr(math, name)(*[at.whole(value) for value in values]))
    if name == "binom" and len(values) == 2:
        return _binomial(at.whole(values[0]), at.whole(values[1]))
    if name == "log" and len(values) == 2:
        return _logarithm(at, values[0]) / _logarithm(at, values[1])
    if len(values) != 1:
        raise NoValueError(f"{name} of {len(values)} values")
    value = values[0]
    if name == "abs":
        return abs(value)
    if name in ("floor", "ceil"):
        return _rounded(at, name, value)
    if name == "cbrt":
        return at.power(value, Fraction(1, 3))
    if name in ("log", "ln"):
        return _logarithm(at, value)
    if name == "lg":
        return _logarithm(at, value) / at.mp.log(10)
    x = at.real(value)
    if abs(at.mp.mag(x)) > 2000 and x != 0:
        raise TooBigError(f"{name} of a huge number")
    if name == "exp":
        return at.power(at.mp.e, value)
    if name in ("arcsin", "arccos") and abs(x) > 1 and not at.complex_plane:
        raise NoValueError(f"{name} outside [-1, 1]")
    if not at.complex_plane and ((name == "arccosh" and x < 1) or (name == "arctanh" and abs(x) >= 1)):
        raise NoValueError(f"{name} outside its domain")
    return _trigonometric(at, name, x)


_MPMATH_NAMES = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
}  # fmt: skip


def _trigonometric(at: Evaluator, name: str, x: Any) -> Value:
    poles = {"tan": "cos", "sec": "cos", "cot": "sin", "csc": "sin"}
    if name in poles and abs(getattr(at.mp, poles[name])(x)) < at.tiny:
        raise NoValueError(f"{name} at a pole")
    function = getattr(at.mp, _MPMATH_NAMES.get(name, name), None)
    if name not in _REAL_FUNCTIONS or function is None:
        raise NoValueError(name)
    return function(x)


_REAL_FUNCTIONS = names("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh")


def _logarithm(at: Evaluator, value: Value) -> Any:
    x = at.real(value)
    if x == 0 or (not at.complex_plane and (at.mp.im(x) != 0 or at.mp.re(x) < 0)):
        raise NoValueError("logarithm outside its domain")
    return at.mp.log(x)


def _rounded(at: Evaluator, name: str, value: Value) -> Fraction:
    if isinstance(value, Fraction):
        return Fraction(math.floor(value) if name == "floor" else math.ceil(value))
    x = at.real(value)
    if at.mp.im(x) != 0 or (x != 0 and at.mp.mag(x) > 200):
        raise NoValueError(f"{name} of a huge or complex number")
    x = at.mp.re(x)
    nearest = at.mp.nint(x)
    if abs(x - nearest) < at.tiny:
        return Fraction(int(nearest))
    return Fraction(int(at.mp.floor(x) if name == "floor" else at.mp.ceil(x)))


def _binomial(n: int, k: int) -> Fraction:
    if n < 0:
        raise NoValueError("binomial of a negative number")
    if n > MAX_FACTORIAL:
        raise TooBigError("a binomial beyond the bounds")
    return Fraction(math.comb(n, k) if k >= 0 else 0)


def _whole_root(value: int, degree: int) -> int | None:
    """The exact integer root, by Newton's iteration from above."""
    if value < 2:
        return value
    if degree == 2:
        root = math.isqrt(value)
    else:
        root = 1 << -(-value.bit_length() // degree)
        while (closer := ((degree - 1) * root + value // root ** (degree - 1)) // degree) < root:
            root = closer
    return root if root**degree == value else None


def _hashed(name: str) -> Any:
    """A number between 0.5 and 1.5 that belongs to this name."""
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=6).digest()
    return 0.5 + int.from_bytes(digest, "big") / 2**48
