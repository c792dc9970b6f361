"""What a tree says in another shape: a quantity and its unit, a named point, a binomial, constants of integration."""

import re
from fractions import Fraction

from promptcot_mamba.grading.math.labels import is_label, read_statement
from promptcot_mamba.grading.math.sets import INFINITY, is_interval
from promptcot_mamba.grading.math.tables import names
from promptcot_mamba.grading.math.tree import Node, rename, symbols, walk
from promptcot_mamba.grading.math.units import measure

TEN = Node("num", (Fraction(10),))
COUNTED = frozenset("ijklmnpqrsNMK")  # letters that by custom are whole numbers
INTEGER_WORDS = names("integer integers whole natural")
RESTRICTING = INTEGER_WORDS | names(
    """
    odd even prime primes composite rational irrational square squares perfect cube cubes squarefree square-free
    multiple multiples divisible coprime
    """
)
VARIABLES = frozenset(["x", "y", "z", "t", "u", "v", "s", "r", "\\theta"])


def by_label(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """`y = 2, x = 1` in the order of its letters, as a point (x, y) lists them; unlabelled items stay."""
    labels = [label for label in map(label_of, items) if label is not None and label.kind == "sym"]
    if len(labels) < len(items):
        return items
    named = zip([label.args[0] for label in labels], items, strict=True)
    return tuple(item for _, item in sorted(named, key=lambda pair: pair[0]))


def quantity_of(node: Node) -> tuple[Node, str | None]:
    """A value and its unit, looked for under signs: `-5\\%`, `90^\\circ`, `\\$5`."""
    if node.kind == "neg":
        value, unit = quantity_of(node.args[0])
        return (Node("neg", (value,)), unit) if unit else (node, None)
    if node.kind == "unit":
        return node.args
    if node.kind == "percent":
        return node.args[0], "%"
    if node.kind == "degrees":
        return node.args[0], "degree"
    return node, None


def equated_letters(node: Node) -> set[str]:
    """The letters that a chain of equalities sets equal."""
    return {side.args[0] for side in node.args[1] if side.kind == "sym"} if set(node.args[0]) == {"="} else set()


def label_of(node: Node) -> Node | None:
    statement = read_statement(node)
    return statement.label if statement else None


def residue_of(node: Node) -> tuple[Node | None, Node]:
    """Label and value of what is taken by a modulus."""
    if node.kind == "relation" and set(node.args[0]) <= {"equiv", "="} and is_label(node.args[1][0]):
        return node.args[1][0], node.args[1][-1]
    return None, node


def restrictions(node: Node) -> set[str]:
    """Words that thin a set out: "odd" behind `n \\ge 3`, "rational" behind `(0, 1)`; `3 primes` only counts them."""
    if not any(part.kind == "unit" for part in walk(node)):
        return set()
    bounds = [part for part in walk(node) if part.kind == "relation" and not {"=", "in", "approx"} & set(part.args[0])]
    sets = [part for part in walk(node) if part.kind == "unit" and part.args[0].kind in ("tuple", "cup", "set")]
    units = [part for kept in (*bounds, *sets) for part in walk(kept) if part.kind == "unit"]
    whole = set().union(*(symbols(bound) for bound in bounds)) <= COUNTED and not sets
    said = {word for unit in units for word in re.findall(r"[a-z-]+", unit.args[1].lower())}
    return said & (RESTRICTING - INTEGER_WORDS if whole else RESTRICTING)


def is_point(node: Node) -> bool:
    """Whether a pair in a list is read as a point: round brackets around finite ends."""
    ends = node.args[2] if is_interval(node) and node.args[:2] == ("(", ")") else ()
    return bool(ends) and not any(part == INFINITY for end in ends for part in walk(end))


def bare_point(node: Node) -> Node:
    """`P(2, 5)` without its name."""
    if node.kind == "apply" and node.args[0].isupper() and len(node.args[1]) > 1:
        return Node("tuple", ("(", ")", node.args[1]))
    named = node.kind == "mul" and len(node.args) == 2 and node.args[0].kind == "sym" and node.args[1].kind == "tuple"
    return node.args[1] if named and str(node.args[0].args[0]).isupper() else node


def as_binomial(node: Node) -> Node:
    """`C(20, 10)` as a binomial coefficient."""
    if node.kind != "mul" or len(node.args) != 2 or node.args[0] != Node("sym", ("C",)) or node.args[1].kind != "tuple":
        return node
    inside = node.args[1].args[2]
    return Node("function", ("binom", inside)) if len(inside) == 2 else node


def with_constants_of(gold: Node, answer: Node) -> Node:
    """Constants of integration as the gold writes them: `c_1` for `C_1`, `x^2 + c` for `x^2 + C`."""
    letters = {}
    for name in symbols(answer) - symbols(gold):
        other = name.swapcase() if name[0] in "cC" else name
        if other in symbols(gold) and (name[1:2] == "_" or (_is_added(gold, other) and _is_added(answer, name))):
            letters[name] = Node("sym", (other,))
    return rename(answer, letters) if letters else answer


def _is_added(node: Node, name: str) -> bool:
    """Whether a letter stands alone as one term of a sum in a variable, and nowhere else."""
    letter = Node("sym", (name,))
    terms = node.args if node.kind == "add" else ()
    once = sum(part == letter for part in walk(node)) == 1
    return letter in terms and once and symbols(node) - {name} <= VARIABLES


def is_percent(unit: str | None) -> bool:
    size = measure(unit) if unit else None
    return size is not None and size[0] == (("percent", 1),)


def is_radian(unit: str, value: Node) -> bool:
    """Radians beside a multiple of pi say nothing new."""
    size = measure(unit)
    return size is not None and size[0] == (("radians", 1),) and holds_pi(value)


def is_log(node: Node, arguments: int) -> bool:
    named = node.kind == "function" and node.args[0] == "log" and len(node.args[1]) == arguments
    return named and (arguments == 1 or node.args[1][1] == TEN)


def with_base_10(node: Node) -> Node | None:
    return Node("function", ("log", (*node.args[1], TEN))) if is_log(node, 1) else None


def holds_pi(node: Node) -> bool:
    return any(part == Node("const", ("pi",)) for part in walk(node))


_ARTICLE = re.compile(r"^\s*(?:an?|the)\s+")
_KINDS = re.compile(r"\s+(?:functions?|numbers?|integers?|triangles?)$")  # "even" and "even function"


def bare_words(text: str) -> str:
    bare = _ARTICLE.sub("", _KINDS.sub("", text.casefold()))
    return "".join(sign for sign in bare if sign.isalnum())
