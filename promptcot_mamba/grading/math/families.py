"""Families of answers over whole numbers, `\\pi/4 + k\\pi`: the letter and its shift are the writer's choice.

A shift needs all integers: `2k + 1` for positive k is not `2k - 1` for positive k. Where both say their least value,
the shift is the difference of the two.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from promptcot_mamba.grading.math.evaluate import Budget, Evaluator, NoValueError, TooBigError
from promptcot_mamba.grading.math.labels import read_statement
from promptcot_mamba.grading.math.tree import Node, rename, symbols, walk
from promptcot_mamba.grading.math.value import UndecidedError, same_expression

PARAMETERS = frozenset("jklmnN")
PI = Node("const", ("pi",))


MOVES = 3  # letters of points are tried that far on


class Domain(NamedTuple):
    """What an answer says of its letter: that it is an integer, that it has a least value, and which."""

    whole: bool = False
    bounded: bool = False
    least: int | None = None


Domains = tuple[Domain, Domain]  # the gold's and the answer's
NOWHERE: Domains = (Domain(), Domain())
_INTEGER = re.compile(r"integer|\\mathbb\s*\{?\s*[ZN]")
_BOUND = re.compile(r"(?:\\ge(?:q|qslant)?(?![A-Za-z])|>)\s*(-?\d{1,6})(?![\d.])")
_LEAST = (
    (re.compile(r"\bnon-?negative\b|\\mathbb\s*\{?\s*Z\s*\}?\s*_\s*\{?\s*\\ge(?:q|qslant)?\s*0"), 0),
    (re.compile(r"\bpositive\b|\\mathbb\s*\{?\s*Z\s*\}?\s*[_^]\s*\{?\s*(?:\+|>\s*0)"), 1),
)
_NATURAL = re.compile(r"\bnatural\b|\\mathbb\s*\{?\s*N")


def read_domain(tail: str) -> Domain:
    """`for all integers k \\ge 2`, `k \\in \\mathbb{Z}`, `n a positive integer`."""
    bound = _BOUND.search(tail)
    least = int(bound[1]) + (">" in bound[0]) if bound else None
    for pattern, value in _LEAST:
        if least is None and pattern.search(tail):
            least = value
    bounded = least is not None or _NATURAL.search(tail) is not None
    return Domain(_INTEGER.search(tail) is not None, bounded, least)


def domain_of(node: Node, said: Domain) -> Domain:
    """The same of a list's items (`2k + 1, k \\in \\mathbb{Z}`), beside what its words said."""
    for item in node.args if node.kind == "list" else ():
        if item.kind != "relation" or len(item.args[1]) != 2 or item.args[1][0].kind != "sym":
            continue
        (sign,), (_, end) = item.args
        if sign == "in" and end.kind == "sym" and str(end.args[0]).startswith(("blackboard Z", "blackboard N")):
            natural, signed = "blackboard N" in end.args[0], "+" in end.args[0]
            said = Domain(True, said.bounded or natural or signed, 1 if signed else said.least)
        elif sign in (">", "ge") and end.kind == "num" and end.args[0].denominator == 1:
            said = said._replace(bounded=True, least=int(end.args[0]) + (sign == ">"))
    return said


def are_apart(gold: Node, domains: Domains) -> bool:
    """Whether one of two solutions that repeat with pi takes all integers, and the other not."""
    everywhere = any(one.whole and not one.bounded for one in domains)
    return everywhere and any(one.bounded for one in domains) and _is_periodic(gold)


def same_points(gold: Node, answer: Node, domains: Domains) -> Iterator[Node]:
    """The answer's points with the gold's letter, moved on as a whole: `(n, n+1)` for `(k, k+1)`, never `(n, n+2)`."""
    values = [said.values[-1] if (said := read_statement(node)) else node for node in (gold, answer)]
    letters = [symbols(value) & PARAMETERS for value in values]
    if any(len(names) != 1 for names in letters) or not any(one.whole or one.bounded for one in domains):
        return
    (own,), (other,) = letters
    moves = [0] if any(one.bounded for one in domains) else [*range(-MOVES, MOVES + 1)]
    for sign in (1,) if len(moves) == 1 else (1, -1):
        for move in {*moves, *_offset(domains)}:
            yield rename(values[1], {other: _moved(own, move, sign)})


def _offset(domains: Domains) -> tuple[int, ...]:
    """How much larger the answer's letter is, where both say their least value."""
    own, other = (one.least for one in domains)
    return () if own is None or other is None else (other - own,)


def _moved(letter: str, move: int, sign: int = 1) -> Node:
    name = Node("sym", (letter,))
    return Node("add", (name if sign > 0 else Node("neg", (name,)), Node("num", (Fraction(move),))))


def same_family(gold: Node, answer: Node, domains: Domains, budget: Budget) -> bool:
    """Whether two expressions in one parameter each describe the same family.

    Unless one of them says that its letter is an integer, only multiples of pi are taken as families, since `n^2` and
    `k^2` may be different answers.
    """
    whole = any(one.whole for one in domains) or all(one.bounded for one in domains)
    letters = symbols(gold), symbols(answer)
    if any(len(names) != 1 or not names <= PARAMETERS for names in letters):
        return False
    if not whole and not all(_is_periodic(node) for node in (gold, answer)):
        return False
    (own,), (other,) = letters
    renamed = rename(answer, {other: Node("sym", (own,))})
    try:
        if same_expression(gold, renamed, budget=budget):
            return True
        if any(one.bounded for one in domains):
            return any(
                same_expression(gold, rename(answer, {other: _moved(own, move)}), budget=budget)
                for move in _offset(domains)
            )
        return whole and _same_progression(gold, renamed, own, budget)
    except UndecidedError:
        return False


def _is_periodic(node: Node) -> bool:
    """Whether a product somewhere in the node holds both the letter and pi."""
    products = (part for part in walk(node) if part.kind in ("mul", "div"))
    return any(symbols(part) and any(inner == PI for inner in walk(part)) for part in products)


def _same_progression(gold: Node, answer: Node, letter: str, budget: Budget) -> bool:
    """Whether both are linear in the letter with one step, up to sign, and starts that are whole steps apart."""
    try:
        own, other_line = (_line(node, letter, budget) for node in (gold, answer))
    except (NoValueError, TooBigError):
        return False
    if own is None or other_line is None:
        return False
    at = Evaluator({}, budget=budget)
    (start, step), (other, width) = own, other_line
    if abs(abs(step) - abs(width)) > at.tiny * abs(step):
        return False
    shift = (start - other) / step
    return bool(abs(shift - at.mp.nint(shift)) < at.tiny * (1 + abs(shift)))


def _line(node: Node, letter: str, budget: Budget) -> tuple[Any, Any] | None:
    """Value at 0 and step, None where the node is not linear in its letter or constant."""
    values = []
    for place in (0, 1, 2, 7):
        at = Evaluator({letter: Fraction(place)}, budget=budget)
        values.append(at.real(at(node)))
    step = values[1] - values[0]
    linear = all(
        abs(values[0] + place * step - value) <= at.tiny * (1 + abs(value))
        for place, value in zip((0, 1, 2, 7), values, strict=True)
    )
    return (values[0], step) if linear and abs(step) > at.tiny else None
