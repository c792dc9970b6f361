"""Python values as bytes, strictly typed, written without calling any method a program could have defined.

Only the built-in data types travel. An instance of a subclass (a Counter, a namedtuple, an IntEnum, or an object
made to lie about equality) is read through the built-in type it extends, so what arrives is its content alone.
Lists and plain scalars are JSON's own; everything else is an object with one key, its type's name.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MAX_PLAIN_INT = 1 << 63  # larger ones travel in hexadecimal: decimal conversion is quadratic, and limited by Python
MAX_DEPTH = 200

PLAIN = frozenset((int, str, float, bool, type(None)))


class ValueRefusedError(Exception):
    """A value of a type that does not travel, or bytes that are not a value."""


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
}


def _encode(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueRefusedError("value nested too deeply")
    base = _base_type(type(value))
    if base is not None:
        return READERS[base](value, depth + 1)
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(value) in set(numpy.sctypeDict.values()):  # numpy.int64 does not extend int
        return _encode(numpy.generic.item(value), depth + 1)
    raise ValueRefusedError(f"a value of type {type(value).__name__} is not data")


def encode_value(value: Any) -> bytes:
    """Serialise a value. Raises ValueRefusedError for other types than data, and for cycles and deep nests."""
    return json.dumps(_encode(value, 0), separators=(",", ":")).encode("ascii")


def _decode_tag(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) != 1:
        raise ValueRefusedError("malformed value")
    ((tag, body),) = pairs
    try:
        return DECODERS[tag](body)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueRefusedError(f"malformed value ({type(error).__name__})") from None


DECODERS = {
    "int": lambda body: int(body, 16),
    "tuple": tuple,
    "dict": lambda body: {key: value for key, value in body},  # noqa: C416 - exactly two of each
    "set": set,
    "frozenset": frozenset,
    "bytes": bytes.fromhex,
    "complex": lambda body: complex(*body),
}


def decode_value(data: bytes) -> Any:
    """The value that `encode_value` wrote, of built-in types only. Raises ValueRefusedError for any other bytes."""
    try:
        return json.loads(data, object_pairs_hook=_decode_tag)
    except (ValueError, RecursionError) as error:
        raise ValueRefusedError(f"malformed value ({type(error).__name__})") from None
