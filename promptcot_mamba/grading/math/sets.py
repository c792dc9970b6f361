"""Sets of numbers however they are written: intervals, unions, inequalities, "all but one"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from promptcot_mamba.grading.math.tree import Node, symbols

INFINITY = Node("const", ("inf",))
MINUS_INFINITY = Node("neg", (INFINITY,))
ALL_REALS = Node("tuple", ("(", ")", (MINUS_INFINITY, INFINITY)))
REALS = "blackboard R"
FLIPPED = {"<": ">", ">": "<", "le": "ge", "ge": "le"}
INCREASING = ("<", "le")


@dataclass(frozen=True)
class End:
    """An end of an interval; one without a value is infinity, on its own side."""

    value: Node | None = None
    closed: bool = False

    def negated(self) -> End:
        """The end at the other side of zero."""
        return End(None if self.value is None else Node("neg", (self.value,)), self.closed)


def is_interval(node: Node) -> bool:
    """Two ends in brackets; whether it is an interval or a point, its text alone may not tell."""
    return node.kind == "tuple" and len(node.args[2]) == 2


def has_mixed_brackets(node: Node) -> bool:
    """`[a, b)` or `(a, b]`: certainly an interval."""
    return (node.args[0] == "(") != (node.args[1] == ")")


def as_set(node: Node) -> Node:
    """`1 \\le x < 2`, `x > 3`, `|x| < 4`, `x \\ne 5`, `\\mathbb{R}` as intervals and their unions; else the node."""
    if node.kind == "sym" and node.args[0] in (REALS, "\\reals"):
        return ALL_REALS
    if node.kind == "mul" and len(node.args) == 2 and node.args[0].kind == "sym" and is_interval(node.args[1]):
        named = has_mixed_brackets(node.args[1])  # `t(0, 4]`: a letter before a half-open interval can only name it
        return node.args[1] if named else node
    if node.kind == "add" and len(node.args) == 2 and node.args[1].kind == "neg" and node.args[1].args[0].kind == "set":
        node = Node("setminus", (node.args[0], node.args[1].args[0]))  # `\\mathbb{R} - \\{0\\}`
    if node.kind in ("cup", "cap", "setminus"):
        left, right = (as_set(part) for part in node.args)
        if node.kind == "setminus" and right.kind in ("num", "decimal", "neg", "div"):
            right = Node("set", (right,))  # "all real numbers except 0"
        if node.kind == "setminus" and left == ALL_REALS and right.kind == "set" and len(right.args) == 1:
            return _without(right.args[0])
        return Node(node.kind, (left, right))
    return _solutions(*node.args) or node if node.kind == "relation" else node


def bound_letters(items: Iterable[Node]) -> set[str]:
    """The letters that inequalities and equations among these bound, each of which has one letter."""
    relations = [item for item in items if item.kind == "relation" and set(item.args[0]) <= {*FLIPPED, "ne", "="}]
    return set().union(*(letters for item in relations if len(letters := symbols(item)) == 1))


def _solutions(relations: tuple[str, ...], sides: tuple[Node, ...]) -> Node | None:
    """The set an inequality in one variable describes, None where it is none of the forms read here."""
    if len(relations) == 1 and relations[0] == "ne" and sides[0].kind == "sym" and not symbols(sides[1]):
        return _without(sides[1])
    if not set(relations) <= set(FLIPPED) or len(relations) > 2:
        return None
    if relations[0] not in INCREASING:
        relations, sides = tuple(FLIPPED[sign] for sign in reversed(relations)), sides[::-1]
    if any(sign not in INCREASING for sign in relations):
        return None
    place = 1 if len(sides) == 3 or (_variable(sides[1]) and not symbols(sides[0])) else 0
    variable = sides[place]
    if not _variable(variable) or (len(sides) == 2 and symbols(sides[1 - place])):
        return None
    low = End(sides[0], relations[0] == "le") if place == 1 else End()
    high = End(sides[-1], relations[-1] == "le") if len(sides) - 1 > place else End()
    if variable.kind == "neg":
        low, high = high.negated(), low.negated()
    return _of_absolute_value(low, high) if variable.kind == "function" else _interval(low, high)


def _variable(node: Node) -> bool:
    if node.kind == "neg" or (node.kind == "function" and node.args[0] == "abs"):
        return (node.args[0] if node.kind == "neg" else node.args[1][0]).kind == "sym"
    return node.kind in ("sym", "apply")


def _of_absolute_value(low: End, high: End) -> Node:
    """`|x| < b` is (-b, b); with a lower end, two intervals that mirror each other."""
    if low.value is None:
        return _interval(high.negated(), high)
    return Node("cup", (_interval(high.negated(), low.negated()), _interval(low, high)))


def _without(point: Node) -> Node:
    """All reals but one."""
    return Node("cup", (_interval(End(), End(point)), _interval(End(point), End())))


def _interval(low: End, high: End) -> Node:
    ends = (MINUS_INFINITY if low.value is None else low.value, INFINITY if high.value is None else high.value)
    return Node("tuple", ("[" if low.closed else "(", "]" if high.closed else ")", ends))


def union_parts(node: Node) -> tuple[Node, ...]:
    """What a union unites; the items of a list, which "or" may have joined."""
    if node.kind == "cup":
        return (*union_parts(node.args[0]), *union_parts(node.args[1]))
    return node.args if node.kind == "list" else (node,)
