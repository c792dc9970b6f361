"""What a chain of equalities says: its label, the values that must all be the answer, and what comes near them.

`x = 6/2 = 3` is labelled x and says 6/2 and 3; `m + n = 33` has a sum for label; `\\sqrt2 \\approx 1.41` says the root.
"""

from fractions import Fraction
from typing import NamedTuple

from promptcot_mamba.grading.math.tables import CHANGING, GUESSES
from promptcot_mamba.grading.math.tree import Node, rename, symbols, walk

COORDINATES = frozenset(["x", "y", "z", "r", "\\theta", "\\rho"])
ZERO = Node("num", (Fraction(0),))
APPLIED_GREEK = [
    Node("sym", (name,)) for name in ("\\sigma", "\\phi", "\\tau", "\\mu", "\\psi", "\\zeta")
]  # of integers
WHOLE_NUMBERS = frozenset("nmN")
PARAMETERS = frozenset("jklmst")  # of whole numbers
EXACT_PLACES = 2  # `7/2 = 3.6` is false, `7/3 = 2.33` a rounding


class Statement(NamedTuple):
    """`label` may be None; every one of `values` is claimed, each of `near` is claimed to be close to them."""

    label: Node | None
    values: tuple[Node, ...]
    near: tuple[Node, ...] = ()


def read_statement(node: Node, is_gold: bool = False) -> Statement | None:
    """The statement of a node, None for a relation that is an answer itself: a curve, an inequality, an equation.

    A gold's relation between coordinates (`x^2 + y^2 = 25`), or to zero, is a curve, so that 25 does not answer it; a
    prediction's may name what was asked for.
    """
    if node.kind != "relation":
        return Statement(None, (node,))
    relations, sides = node.args
    if relations == ("in",):
        return Statement(sides[0], (sides[1],)) if is_label(sides[0]) else None
    cut = relations.index("approx") if "approx" in relations else len(relations)
    if not set(relations[:cut]) <= {"="} or not set(relations[cut:]) <= {"=", "approx"}:
        return None
    exact, near = sides[: cut + 1], sides[cut + 1 :]
    if len(exact) == 1 and near and is_label(exact[0]) and not symbols(near[0]):
        return Statement(exact[0], near[:1], near[1:])
    label, values = _split(exact, is_gold)
    if values is None:
        return None
    first = values[0]
    rounded = tuple(side for side in values[1:] if side.kind == "decimal" and side.args[1] >= EXACT_PLACES)
    if first.kind not in ("decimal", "num"):
        values = tuple(side for side in values if side not in rounded)
        near = (*near, *rounded)
    return Statement(label, values, near)


def _split(sides: tuple[Node, ...], is_gold: bool) -> tuple[Node | None, tuple[Node, ...] | None]:
    """Label and values of sides joined by `=`; no values where they form an equation."""
    named = [side for side in sides if not is_constant(side)]
    values = tuple(side for side in sides if is_constant(side))
    if len(sides) == 1 or not named:
        return None, sides
    if values:
        names_it = all(_names_value(side, is_gold) for side in named)
        names_it = names_it and not (is_gold and values[-1] == ZERO and not all(is_label(side) for side in named))
        return named[0], values if names_it else None
    first, rest = sides[0], sides[1:]
    shared = symbols(first) & set().union(*(symbols(side) for side in rest))
    if is_label(first) and not (shared and first.kind == "sym"):
        return first, rest
    if len(sides) == 2 and rest[0].kind == "apply" and not is_label(first):
        return rest[0], (first,)
    return first, rest if len(symbols(first)) > 1 and not shared and _names_value(first, is_gold) else None


def is_constant(node: Node) -> bool:
    """Whether a node's value depends on no letter; the letter of a sum is its own."""
    bound = {part.args[0] for part in walk(node) if part.kind in ("sum", "prod")}
    return not (symbols(node) - bound) and not any(part.kind in ("apply", "text") for part in walk(node))


def is_label(node: Node) -> bool:
    """Letters, products of letters, an applied function, a ratio or tuple of those, or words."""
    if node.kind in ("sym", "apply"):
        return True
    if node.kind == "text":
        said = node.args[0].lower().split()
        return not (CHANGING | GUESSES) & set(said) and said[:1] != ["one"]  # "one value is" says there are others
    if node.kind == "const":
        return node.args[0] in ("e", "i")
    if node.kind in ("mul", "div", "ratio"):
        return all(is_label(part) for part in node.args)
    if node.kind == "tuple":
        return all(is_label(part) for part in node.args[2])
    if node.kind == "function":
        return node.args[0] in ("abs", "max", "min") and all(is_label(part) for part in node.args[1])
    return node.kind == "unit" and is_label(node.args[0])


def _names_value(node: Node, is_gold: bool) -> bool:
    """Whether `node = 7` states the value of `node`: `m + n`, `AB^2`, `\\gcd(a, b)`; `3x`, `x^2` are to be solved."""
    if is_label(node):
        return True
    if node.kind == "neg":
        return False  # `-A = 5`
    letters = symbols(node)
    if any(part.kind == "text" and not is_label(part) for part in walk(node)):
        return False
    if is_gold and letters & COORDINATES:
        return False
    if node.kind in ("function", "apply") or any(part.kind in ("apply", "text") for part in walk(node)):
        return True
    if node.kind == "mul" and node.args[0] in APPLIED_GREEK:
        return True
    return len(letters) > 1 or any(name[0].isupper() for name in letters)


def same_label(first: Node, second: Node) -> bool:
    """Equal names; words name anything, and a subscript may be left out (`m` for `m_{\\max}`)."""
    if first == second or "text" in (first.kind, second.kind):
        return True
    if first.kind == second.kind == "sym":
        a, b = str(first.args[0]), str(second.args[0])
        return a.partition("_")[0] == b.partition("_")[0] and ("_" in a) != ("_" in b)
    if first.kind == second.kind == "apply":  # `f(t)` is `f(x)`; `f(x + 1)` and `f(f(x))` are not
        free = [(a, b) for a, b in zip(first.args[1], second.args[1], strict=False) if a != b]
        alike = first.args[0] == second.args[0] and len(first.args[1]) == len(second.args[1])
        return alike and all(a.kind == b.kind == "sym" for a, b in free)
    for named, applied in ((first, second), (second, first)):
        if named.kind == "sym" and applied.kind == "apply":  # `f` of `f \\equiv 0`; y and f(x) name a function of x
            return named.args[0] == applied.args[0] or (
                named.args[0] == "y" and applied.args[1] == (Node("sym", ("x",)),)
            )
    return False


def _sequence(label: Node) -> tuple[str, str] | None:
    """`a_n` as the name of a sequence and its index."""
    name, _, index = str(label.args[0]).partition("_") if label.kind == "sym" else ("", "", "")
    return (name, index) if len(index) == 1 and index.islower() else None


def with_letters_of(said: Statement, claimed: Statement) -> Statement:
    """`f(t) = 2t` with the letter of `f(x) = 2x`, and `a_k = 2k` with that of `a_n = 2n`."""
    own, other = said.label, claimed.label
    if own is None or other is None:
        return claimed
    if own.kind == other.kind == "apply" and same_label(own, other):
        pairs = [(old, new) for old, new in zip(other.args[1], own.args[1], strict=True) if old.kind == "sym"]
        # `f(y) = 2x`: the gold's letter was free there, and stays another one
        letters = {new.args[0]: Node("sym", (f"free {new.args[0]}",)) for _, new in pairs if new.kind == "sym"}
        letters |= {old.args[0]: new for old, new in pairs}
        return claimed._replace(values=tuple(rename(value, letters) for value in claimed.values))
    first, second = _sequence(own), _sequence(other)
    if first and second and first[0] == second[0]:
        letters = {second[1]: Node("sym", (first[1],))}
        return claimed._replace(label=own, values=tuple(rename(value, letters) for value in claimed.values))
    return claimed


def with_parameter_of(said: Statement, claimed: Statement) -> Statement | None:
    """`f(x) = kx` with the constant of `f(x) = cx`, and `n = 3m` with that of `n = 3k`: each has one letter of its own.

    Only functions, and numbers that by custom are whole, have such letters; in `x = 3a` the letter is the problem's.
    """
    label = said.label
    if label is None:
        return None
    counted = label.kind == "sym" and str(label.args[0]) in WHOLE_NUMBERS
    if label.kind != "apply" and not counted:
        return None
    bound = symbols(label)
    own, other = (set().union(*(symbols(value) for value in one.values)) - bound for one in (said, claimed))
    if len(own) != 1 or len(other) != 1 or own == other or (counted and not (own | other) <= PARAMETERS):
        return None
    letters = {other.pop(): Node("sym", (own.pop(),))}
    return claimed._replace(values=tuple(rename(value, letters) for value in claimed.values))
