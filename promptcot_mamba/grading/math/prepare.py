"""One shape for each meaning, before two answers are compared: signs spelled out, qualifiers dropped, sets limited."""

from promptcot_mamba.grading.math.labels import is_label, read_statement
from promptcot_mamba.grading.math.parse import INEQUALITIES
from promptcot_mamba.grading.math.regions import INTEGERS
from promptcot_mamba.grading.math.sets import REALS, as_set, bound_letters
from promptcot_mamba.grading.math.tree import Node, negated, rebuild, symbols, walk
from promptcot_mamba.grading.math.value import UndecidedError

MAX_ITEMS = 60
MAX_FREE_SIGNS = 4


def has_free_signs(node: Node) -> bool:
    """Whether each of several `\\pm` (and no `\\mp`) may mean its own sign: `(\\pm 3, \\pm 2)`."""
    kinds = [part.kind for part in walk(node)]
    return 1 < kinds.count("pm") <= MAX_FREE_SIGNS and "mp" not in kinds


def prepare(node: Node, whole: bool = False, free: bool = False) -> Node:
    """One shape for each meaning: signs of `\\pm` spelled out, inequalities as intervals, qualifiers dropped.

    A qualifier limits a set (`1 \\le x \\le 3, x \\in \\mathbb{Z}`, or `whole`); elsewhere it says what a letter is.
    With `free` each `\\pm` has a sign of its own.
    """
    items = list(node.args) if node.kind == "list" else [node]
    domains = [part.args[1][1] for part in items if is_qualifier(part)] or [INTEGERS] * whole
    kept = [part for part in items if not is_qualifier(part)] or items
    if any(part.kind == "relation" and set(part.args[0]) <= INEQUALITIES for part in kept):
        kept = [part for part in kept if not is_qualifier(part, REALS)]  # `x \\in \\mathbb{R}, x \\ne 2`
    kept = _without_domains(_without_conditions(kept))
    items = _share_label([_limited(part, domains) for part in kept])
    apart = len(bound_letters(items)) > 1  # `x < 2 or y > 3`
    choices = [choice for item in items for choice in (_spell_freely(item) if free else _spell_signs(item))]
    spread = [choice if apart else as_set(choice) for choice in choices]
    if len(spread) > MAX_ITEMS:
        raise UndecidedError(f"more than {MAX_ITEMS} answers")
    return spread[0] if len(spread) == 1 else Node("list", tuple(spread))


def _without_conditions(items: list[Node]) -> list[Node]:
    """`\\frac{1}{x-1}, x \\ne 1`: a condition on a letter of the one expression beside it is no second answer."""
    if len(items) != 2 or items[1].kind != "relation" or not set(items[1].args[0]) <= INEQUALITIES:
        return items
    answer = items[0].args[1][-1] if items[0].kind == "relation" and items[0].args[0] == ("=",) else items[0]
    letters = set().union(*(symbols(side) for side in items[1].args[1]))
    return items[:1] if answer.kind != "relation" and letters and letters <= symbols(answer) else items


def _without_domains(items: list[Node]) -> list[Node]:
    """`f(x) = cx, c \\in \\mathbb{R}`: what letters of the answer beside it range over is no second answer."""
    answers = [item for item in items if not is_qualifier(item, REALS)]
    letters = set().union(*(symbols(item) for item in answers))
    ranged = set().union(*(symbols(item.args[1][0]) for item in items if is_qualifier(item, REALS)))
    return answers if answers and ranged <= letters and all(item.kind == "relation" for item in answers) else items


def as_point(node: Node, other: Node) -> Node:
    """`x = y = z = 1` as a list of three, beside a point or a list of several."""
    if node.kind != "relation" or set(node.args[0]) != {"="} or len(node.args[1]) < 3:
        return node
    *names, value = node.args[1]
    statement = read_statement(other)
    several = statement is not None and statement.values[-1].kind in ("tuple", "list")
    if not several or not all(is_label(name) for name in names) or len(set(names)) < len(names) or symbols(value):
        return node
    return Node("list", tuple(Node("relation", (("=",), (name, value))) for name in names))


def _limited(node: Node, domains: list[Node]) -> Node:
    """A set given by inequalities within the numbers it is taken from."""
    limits = node.kind == "both" or (node.kind == "relation" and set(node.args[0]) <= INEQUALITIES)
    return Node("cap", (node, domains[0])) if domains and limits else node


def _share_label(items: list[Node]) -> list[Node]:
    """`a = 4, -8, -10` labels all three, so that they stay one unordered list."""
    if len(items) > 1 and items[0].kind == "relation" and all(item.kind != "relation" for item in items[1:]):
        statement = read_statement(items[0])
        if statement and statement.label is not None and len(statement.values) == 1:
            return [statement.values[0], *items[1:]]
    return items


def is_qualifier(node: Node, wanted: str | None = None) -> bool:
    """`k \\in \\mathbb{Z}`: says what a letter may be, not what the answer is."""
    if not isinstance(node, Node) or node.kind != "relation" or node.args[0] != ("in",):
        return False
    name = node.args[1][1]
    if name.kind != "sym" or not str(name.args[0]).startswith("blackboard"):
        return False
    return name.args[0] == wanted if wanted else name.args[0] != REALS


def _spell_signs(node: Node) -> list[Node]:
    """The two answers that `\\pm` abbreviates, wherever in the node it stands; signs within one answer go together."""
    if not any(part.kind in ("pm", "mp") for part in walk(node)):
        return [node]
    if node.kind == "set":
        return [Node("set", tuple(choice for item in node.args for choice in _spell_signs(item)))]
    return [_with_sign(node, True), _with_sign(node, False)]


def _spell_freely(node: Node) -> list[Node]:
    """The answers that several `\\pm` abbreviate where each goes its own way."""
    signs = [part for part in walk(node) if part.kind == "pm"]
    if not signs:
        return [node]

    def choose(upper: bool) -> Node:
        return rebuild(
            node, lambda part: (part.args[0] if upper else negated(part.args[0])) if part is signs[0] else None
        )

    return [choice for upper in (True, False) for choice in _spell_freely(choose(upper))]


def _with_sign(node: Node, upper: bool) -> Node:
    def choose(part: Node) -> Node | None:
        if part.kind not in ("pm", "mp"):
            return None
        right = _with_sign(part.args[0], upper)
        return right if (part.kind == "pm") == upper else negated(right)

    return rebuild(node, choose)
