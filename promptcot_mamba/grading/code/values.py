"""Python values as bytes, strictly typed, written without calling any method a program could have defined.

Built-in data types travel as themselves, and Decimal and Fraction, which equal plain numbers. An instance of a
subclass (a Counter, a namedtuple, an IntEnum, or an object made to lie about equality) is read through the type it
extends, so what arrives is its content alone; numpy's and sympy's scalars are read as Python's. Anything else arrives
as `Foreign`, which equals nothing: a deque, an array or a generator is no list, in Python as in LiveCodeBench. Only a
numpy array of one element, of which `==` says one thing, is compared (`Single`).
Lists and plain scalars are JSON's own; everything else is an object with one key, its type's name.
"""

import json
import sys
import types
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

MAX_PLAIN_INT = 1 << 63  # larger ones travel in hexadecimal: decimal conversion is quadratic, and limited by Python
MAX_DEPTH = 200
MAX_EQUAL_HASHES = 256  # of one set or dict: placing items of one hash is quadratic
MAX_FOREIGN_ITEMS = 100_000  # of a deque, an array or a generator; one that goes on is sent without its items

PLAIN = frozenset((int, str, float, bool, type(None)))
SERIES: tuple[type, ...] = (
    *(deque, range, array, type({}.keys()), type({}.values()), type({}.items())),
    *(types.GeneratorType, map, filter, zip, enumerate, reversed, type(iter([])), type(iter(()))),
)
_to_text = json.JSONEncoder(separators=(",", ":")).encode  # a program may have replaced `json.dumps`


class ValueRefusedError(Exception):
    """Bytes that are not a value."""


class _TooDeepError(Exception):
    """A cycle, or nested deeper than any expected value."""


@dataclass(frozen=True, eq=False)  # equal to nothing but itself
class Foreign:
    """A value that is no data: its type's name, and its items where it is a built-in sequence or iterator."""

    kind: str
    items: tuple[Any, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, eq=False)
class Single:
    """A numpy array of one element. Compared with a list it gives one truth value, as numpy broadcasts it."""

    item: Any

    def __eq__(self, other: object) -> bool:
        while isinstance(other, (list, tuple)) and len(other) == 1:
            other = other[0]
        return bool(self.item == other)

    __hash__ = None  # type: ignore[assignment]


def _base_type(kind: type) -> type | None:
    """The built-in data type that `kind` is or extends; `type.__mro__` cannot be overridden by a program."""
    for base in type.__dict__["__mro__"].__get__(kind):
        if base in READERS:
            return base
    return None


def _encode_int(value: int, depth: int) -> Any:
    exact = int.__index__(value)
    return exact if -MAX_PLAIN_INT < exact < MAX_PLAIN_INT else {"int": hex(exact)}


def _encode_dict(value: dict, depth: int) -> Any:
    return {"dict": [[_encode(key, depth), _encode(item, depth)] for key, item in dict.items(value)]}


def _encode_list(value: list, depth: int) -> Any:
    items = list.__getitem__(value, slice(None))
    kinds = set(map(type, items))
    if kinds <= PLAIN and (
        int not in kinds or all(-MAX_PLAIN_INT < x < MAX_PLAIN_INT for x in items if type(x) is int)
    ):
        return items
    return [_encode(item, depth) for item in items]


def _encode_tuple(value: tuple, depth: int) -> Any:
    return {"tuple": [_encode(item, depth) for item in tuple.__getitem__(value, slice(None))]}


READERS = {
    bool: lambda value, depth: value,
    type(None): lambda value, depth: None,
    int: _encode_int,
    float: lambda value, depth: float.__float__(value),
    str: lambda value, depth: str.__str__(value),
    list: _encode_list,
    tuple: _encode_tuple,
    dict: _encode_dict,
    set: lambda value, depth: {"set": [_encode(item, depth) for item in set.__iter__(value)]},
    frozenset: lambda value, depth: {"frozenset": [_encode(item, depth) for item in frozenset.__iter__(value)]},
    bytes: lambda value, depth: {"bytes": bytes.hex(value)},
    complex: lambda value, depth: {"complex": [complex.real.__get__(value), complex.imag.__get__(value)]},
    Decimal: lambda value, depth: {"decimal": Decimal.__str__(value)},
    Fraction: lambda value, depth: {"fraction": [hex(value._numerator), hex(value._denominator)]},
}


def _encode(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise _TooDeepError
    base = _base_type(type(value))
    if base is not None:
        return READERS[base](value, depth + 1)
    scalar = _library_scalar(value)
    if scalar is not None:
        return _encode(scalar, depth + 1)
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(value) is numpy.ndarray and value.size == 1:
        return {"single": _encode(numpy.ndarray.item(value), depth + 1)}
    items = _foreign_items(value)
    return _foreign(value, [_encode(item, depth + 1) for item in items] if len(items) <= MAX_FOREIGN_ITEMS else ())


def _library_scalar(value: Any) -> Any:
    """A numpy scalar or array of no dimension, or a sympy Integer, as Python's own; numpy.int64 extends no int."""
    numpy, sympy = sys.modules.get("numpy"), sys.modules.get("sympy")
    if numpy is not None and type(value) in set(numpy.sctypeDict.values()):
        return numpy.generic.item(value)
    if numpy is not None and type(value) is numpy.ndarray and value.ndim == 0:
        return numpy.ndarray.item(value)
    if sympy is not None and issubclass(type(value), sympy.Integer):
        return value.p
    return None


def _foreign_items(value: Any) -> list[Any]:
    """What a built-in sequence, iterator or numpy array holds, up to one more than travel."""
    if type(value) in SERIES:
        return list(islice(value, MAX_FOREIGN_ITEMS + 1))
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(value) is numpy.ndarray and value.size <= MAX_FOREIGN_ITEMS:
        return numpy.ndarray.tolist(value)
    return []


def _foreign(value: Any, items: Any) -> Any:
    return {"foreign": [type.__dict__["__name__"].__get__(type(value)), list(items)]}


def encode_value(value: Any) -> bytes:
    """Serialise a value; one that holds itself, or is nested too deeply, as a `Foreign`."""
    try:
        plain = _encode(value, 0)
    except _TooDeepError:
        plain = _foreign(value, ())
    return _to_text(plain).encode("ascii")


def _decode_tag(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) != 1:
        raise ValueRefusedError("malformed value")
    ((tag, body),) = pairs
    try:
        return DECODERS[tag](body)
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise ValueRefusedError(f"malformed value ({type(error).__name__})") from None


def _spread(items: list[Any]) -> list[Any]:
    """Items to be placed by their hashes. Raises ValueRefusedError where a program chose them to have one."""
    if len(items) > MAX_EQUAL_HASHES and max(Counter(map(hash, items)).values()) > MAX_EQUAL_HASHES:
        raise ValueRefusedError(f"more than {MAX_EQUAL_HASHES} items of one hash")
    return items


def _decode_dict(body: list[Any]) -> dict[Any, Any]:
    _spread([key for key, _ in body])
    return dict(body)


DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda body: int(body, 16),
    "tuple": tuple,
    "dict": _decode_dict,
    "set": lambda body: set(_spread(body)),
    "frozenset": lambda body: frozenset(_spread(body)),
    "bytes": bytes.fromhex,
    "complex": lambda body: complex(*body),
    "decimal": Decimal,
    "fraction": lambda body: Fraction(int(body[0], 16), int(body[1], 16)),
    "single": Single,
    "foreign": lambda body: Foreign(str(body[0]), tuple(body[1])),
}


def decode_value(data: bytes) -> Any:
    """The value that `encode_value` wrote, of built-in types only. Raises ValueRefusedError for any other bytes."""
    try:
        return json.loads(data, object_pairs_hook=_decode_tag)
    except (ValueError, RecursionError) as error:
        raise ValueRefusedError(f"malformed value ({type(error).__name__})") from None
