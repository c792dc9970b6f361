"""Sets of reals with numeric ends as disjoint pieces, so that equal sets are equal however they are composed.

`[0,20] \\setminus \\{12\\}`, `[0,12) \\cup (12,20]` and "0 <= x <= 20 and x != 12" have the same pieces.
"""

from typing import Any, NamedTuple

from promptcot_mamba.grading.math.evaluate import Budget, Evaluator, NoValueError, TooBigError
from promptcot_mamba.grading.math.sets import as_set, bound_letters, is_interval
from promptcot_mamba.grading.math.tree import Node

MAX_PIECES = 60
INTEGERS = Node("sym", ("blackboard Z",))


class NoRegionError(Exception):
    """The node is no set of reals whose ends have values."""


class Piece(NamedTuple):
    """All reals between two ends; an end belongs to it where it is closed."""

    low: Any
    low_closed: bool
    high: Any
    high_closed: bool


def same_region(first: Node, second: Node, budget: Budget) -> bool | None:
    """Whether two nodes describe one set of reals; None where either does not describe any."""
    at = Evaluator({}, budget=budget)
    try:
        a, b = _region(first, at), _region(second, at)
    except (NoRegionError, NoValueError, TooBigError):
        return None
    return len(a) == len(b) and all(
        _equal(at, p.low, q.low) and _equal(at, p.high, q.high) and p[1::2] == q[1::2]
        for p, q in zip(a, b, strict=True)
    )


def _equal(at: Evaluator, a: Any, b: Any) -> bool:
    return a == b or (at.mp.isfinite(a) and at.mp.isfinite(b) and abs(a - b) <= at.tiny * max(1, abs(a)))


def _region(node: Node, at: Evaluator) -> list[Piece]:
    """The pieces of a node, in order. Raises NoRegionError."""
    node = as_set(node)
    if node.kind == "tuple" and is_interval(node):
        low, high = (_end(end, at) for end in node.args[2])
        piece = Piece(low, node.args[0] == "[", high, node.args[1] == "]")
        if low > high:
            raise NoRegionError("an interval that runs backwards")
        return _merged([piece], at)
    if node.kind == "set":
        points = [_end(item, at) for item in node.args]
        return _merged([Piece(point, True, point, True) for point in points], at)
    if node.kind in ("cup", "list", "both") and len(bound_letters(node.args)) > 1:
        raise NoRegionError("bounds of different letters")
    if node.kind in ("cup", "list"):
        if node.kind == "list" and any(as_set(part).kind not in ("tuple", "cup", "both") for part in node.args):
            raise NoRegionError("a list of points")
        return _merged([piece for part in node.args for piece in _region(part, at)], at)
    if node.kind == "both":
        parts = [_region(part, at) for part in node.args]
        common = parts[0]
        for part in parts[1:]:
            common = _common(common, part, at)
        # "x < -1 and x > 1" names two ranges: read literally nothing would satisfy it
        return common or _merged([piece for part in parts for piece in part], at)
    if node.kind == "cap" and node.args[1] == INTEGERS:
        return _merged(
            [Piece(at.mp.mpf(n), True, at.mp.mpf(n), True) for n in _integers(_region(node.args[0], at), at)], at
        )
    if node.kind in ("cap", "setminus"):
        left, right = (_region(part, at) for part in node.args)
        return _common(left, right if node.kind == "cap" else _complement(right, at), at)
    raise NoRegionError(node.kind)


def _integers(pieces: list[Piece], at: Evaluator) -> list[int]:
    """The whole numbers of bounded pieces."""
    found = []
    for piece in pieces:
        if not (at.mp.isfinite(piece.low) and at.mp.isfinite(piece.high)) or piece.high - piece.low > MAX_PIECES - 1:
            raise NoRegionError("too many integers")
        for number in range(int(at.mp.ceil(piece.low - at.tiny)), int(at.mp.floor(piece.high + at.tiny)) + 1):
            open_end = (_equal(at, piece.low, number) and not piece.low_closed) or (
                _equal(at, piece.high, number) and not piece.high_closed
            )
            found += [] if open_end else [number]
    return found


def _end(node: Node, at: Evaluator) -> Any:
    value = at(node)
    if isinstance(value, float):
        return at.mp.mpf(value)
    number = at.real(value)
    if at.mp.im(number) != 0:
        raise NoRegionError("a complex end")
    return at.mp.re(number)


def _merged(pieces: list[Piece], at: Evaluator) -> list[Piece]:
    """Pieces in order, overlapping and touching ones joined, empty ones left out."""
    if len(pieces) > MAX_PIECES:
        raise NoRegionError("too many pieces")
    full = [p for p in pieces if not _equal(at, p.low, p.high) or (p.low_closed and p.high_closed)]
    joined: list[Piece] = []
    for piece in sorted(full, key=lambda p: (p.low, not p.low_closed)):
        last = joined[-1] if joined else None
        touches = last is not None and _equal(at, last.high, piece.low)
        if (
            last is None
            or (piece.low > last.high and not touches)
            or (touches and not (last.high_closed or piece.low_closed))
        ):
            joined.append(piece)
        elif _equal(at, piece.high, last.high):
            joined[-1] = last._replace(high_closed=last.high_closed or piece.high_closed)
        elif piece.high > last.high:
            joined[-1] = last._replace(high=piece.high, high_closed=piece.high_closed)
    return joined


def _common(first: list[Piece], second: list[Piece], at: Evaluator) -> list[Piece]:
    found = []
    for p in first:
        for q in second:
            low, low_closed = max((p.low, not p.low_closed), (q.low, not q.low_closed))
            high, high_closed = min((p.high, p.high_closed), (q.high, q.high_closed))
            if low < high or (_equal(at, low, high) and not low_closed and high_closed):
                found.append(Piece(low, not low_closed, high, high_closed))
    return _merged(found, at)


def _complement(pieces: list[Piece], at: Evaluator) -> list[Piece]:
    low, closed = -at.mp.inf, False
    gaps = []
    for piece in pieces:
        gaps.append(Piece(low, closed, piece.low, not piece.low_closed))
        low, closed = piece.high, not piece.high_closed
    gaps.append(Piece(low, closed, at.mp.inf, False))
    return [gap for gap in _merged(gaps, at) if gap.low != at.mp.inf and gap.high != -at.mp.inf]
