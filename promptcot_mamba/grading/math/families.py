"""Families of answers over whole numbers, `\\pi/4 + k\\pi`: the letter and its shift are the writer's choice."""

from fractions import Fraction
from typing import Any

from promptcot_mamba.grading.math.evaluate import Budget, Evaluator, NoValueError, TooBigError
from promptcot_mamba.grading.math.tree import Node, rebuild, symbols, walk
from promptcot_mamba.grading.math.value import UndecidedError, same_expression

PARAMETERS = frozenset("jklmnN")
PI = Node("const", ("pi",))


def same_family(gold: Node, answer: Node, whole: bool, budget: Budget) -> bool:
    """Whether two expressions in one parameter each describe the same family.

    `whole`: one of them says that its letter is any integer; without that only multiples of pi are taken as families,
    since `n^2` and `k^2` may be different answers.
    """
    letters = symbols(gold), symbols(answer)
    if any(len(names) != 1 or not names <= PARAMETERS for names in letters):
        return False
    if not whole and not all(_is_periodic(node) for node in (gold, answer)):
        return False
    (own,), (other,) = letters
    renamed = rebuild(answer, lambda part: Node("sym", (own,)) if part == Node("sym", (other,)) else None)
    try:
        return same_expression(gold, renamed, budget=budget) or (
            whole and _same_progression(gold, renamed, own, budget)
        )
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
