"""The tree of an answer: nodes, numerals, and walks over them."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple

from promptcot_mamba.grading.math.tokens import UnreadableError

MAX_ENTRIES = 200  # nodes of a matrix that may be multiplied out
MAX_DIGITS = 4000  # CPython refuses longer decimal texts; nothing that long is an answer to be computed with


class Node(NamedTuple):
    """One node; `args` holds nodes, names, numbers or tuples of nodes, by kind.

    Values: num, decimal (value, places), sym (name), const (e, i, pi, inf), add, mul (any number of parts), neg, div,
    pow, root (degree, of), pm, mp, factorial (of, step), function (name, arguments), apply (name, arguments),
    determinant; quantities: unit (of, words), percent, degrees; answers: list, set, tuple (open, close, items),
    matrix (rows), cup, cap, setminus, ratio, relation (signs, sides), text (words).
    """

    kind: str
    args: tuple[Any, ...]


def negated(node: Node) -> Node:
    """The opposite of a value, or of a point: `-(1, 2)` is (-1, -2)."""
    if node.kind == "tuple" and node.args[:2] == ("(", ")"):
        return Node("tuple", ("(", ")", tuple(negated(part) for part in node.args[2])))
    return Node("neg", (node,))


def number(text: str) -> Node:
    """A decimal numeral as an exact fraction: `num` for whole numbers, `decimal` with a point or exponent."""
    if len(text) > MAX_DIGITS:
        raise UnreadableError("a number of more than 4,000 digits")
    if text.isdigit():
        return Node("num", (Fraction(int(text)),))
    mantissa, _, exponent = text.lower().partition("e")
    if exponent and (len(exponent) > 5 or abs(int(exponent)) > MAX_DIGITS):
        raise UnreadableError("an exponent above 4,000")
    return Node("decimal", (Fraction(mantissa) * Fraction(10) ** int(exponent or 0), len(mantissa.partition(".")[2])))


def walk(node: Node) -> Iterator[Node]:
    """The node and everything under it."""
    stack: list[Any] = [node]
    while stack:
        current = stack.pop()
        if isinstance(current, Node):
            yield current
            stack += current.args
        elif isinstance(current, tuple):
            stack += current


def rebuild(node: Node, change: Callable[[Node], Node | None]) -> Node:
    """The tree with `change` applied from the top; where it returns None the node is kept and its parts are changed."""

    def rewrite(part: Any) -> Any:
        if isinstance(part, Node):
            return rebuild(part, change)
        return tuple(rewrite(inner) for inner in part) if isinstance(part, tuple) else part

    changed = change(node)
    return changed if changed is not None else Node(node.kind, tuple(rewrite(part) for part in node.args))


def rename(node: Node, names: Mapping[str, Node]) -> Node:
    """The node with other nodes in the place of some letters."""
    return rebuild(node, lambda part: names.get(part.args[0]) if part.kind == "sym" else None)


def symbols(node: Node) -> set[str]:
    """The names that need a value. Numerals with a base (`1011_2`) are names too: equal only to themselves."""
    return {part.args[0] for part in walk(node) if part.kind == "sym"}


def name_of(node: Node) -> str:
    """A node as part of a symbol's name."""
    if node.kind in ("num", "decimal"):
        return str(node.args[0])
    parts = [name_of(part) if isinstance(part, Node) else str(part) for part in node.args if not isinstance(part, list)]
    return "".join(parts) if node.kind in ("sym", "text", "const", "mul") else f"{node.kind}({','.join(parts)})"


def product(factors: list[Node]) -> Node:
    """A product; matrices are multiplied out, other factors multiply their entries."""
    if len(factors) == 1:
        return factors[0]
    matrices = [factor for factor in factors if factor.kind == "matrix"]
    others = [factor for factor in factors if factor.kind != "matrix"]
    if not matrices:
        return Node("mul", tuple(factors))
    rows = matrices[0].args
    for matrix in matrices[1:]:
        if len(rows[0]) != len(matrix.args) or not (_is_small(rows) and _is_small(matrix.args)):
            return Node("mul", tuple(factors))
        columns = tuple(zip(*matrix.args, strict=True))
        rows = tuple(tuple(_inner(row, column) for column in columns) for row in rows)
    if others:
        rows = tuple(tuple(Node("mul", (*others, cell)) for cell in row) for row in rows)
    return Node("matrix", rows)


def _is_small(rows: tuple[tuple[Node, ...], ...]) -> bool:
    """Whether a matrix may be multiplied out: entries grow with every product, so only short ones are."""
    return sum(1 for _ in islice(walk(Node("matrix", rows)), MAX_ENTRIES)) < MAX_ENTRIES


def _inner(row: tuple[Node, ...], column: tuple[Node, ...]) -> Node:
    return Node("add", tuple(Node("mul", pair) for pair in zip(row, column, strict=True)))


def total(terms: list[Node]) -> Node:
    """A sum; matrices of one shape are added entry by entry."""
    if len(terms) == 1:
        return terms[0]
    shapes = {(len(term.args), len(term.args[0])) if term.kind == "matrix" else None for term in terms}
    if len(shapes) > 1 or None in shapes:
        return Node("add", tuple(terms))
    rows = zip(*(term.args for term in terms), strict=True)
    return Node("matrix", tuple(tuple(Node("add", cells) for cells in zip(*row, strict=True)) for row in rows))
