"""Whether two parsed answers are the same answer: shapes first (lists, tuples, intervals...), then values.

The conventions, each strict where mathematics distinguishes and lenient where only typography differs:
tuples are ordered and keep their brackets, sets and bare lists of solutions are not ordered; nothing may be missing;
a label (`x =`, `f(x) =`, `x \\in`) may be left out, not changed; units may be left out, not changed.
"""

from __future__ import annotations

from fractions import Fraction

from promptcot_mamba.grading.math.evaluate import Budget
from promptcot_mamba.grading.math.gold import AnswerRules
from promptcot_mamba.grading.math.sets import FLIPPED, REALS, as_set, has_mixed_brackets, is_interval, union_parts
from promptcot_mamba.grading.math.tree import Node, rebuild, symbols, walk
from promptcot_mamba.grading.math.units import measure
from promptcot_mamba.grading.math.value import UndecidedError, same_expression, same_number

TEN = Node("num", (Fraction(10),))
MAX_ITEMS = 60
CONTAINERS = frozenset(["list", "set", "tuple", "matrix", "cup", "cap", "setminus", "ratio", "relation"])


def same_answer(gold: Node, answer: Node, rules: AnswerRules, unit: str | None = None) -> bool:
    """Whether `answer` is `gold`, under its benchmark's rules. Raises UndecidedError where neither can be shown."""
    return _Comparison(rules, unit).same(prepare(gold), prepare(answer))


def prepare(node: Node) -> Node:
    """One shape for each meaning: signs of `\\pm` spelled out, inequalities as intervals, qualifiers dropped."""
    items = node.args if node.kind == "list" else (node,)
    items = _share_label([part for part in items if not _is_qualifier(part)] or list(items))
    spread = [as_set(choice) for item in items for choice in _spell_signs(item)]
    if len(spread) > MAX_ITEMS:
        raise UndecidedError(f"more than {MAX_ITEMS} answers")
    return spread[0] if len(spread) == 1 else Node("list", tuple(spread))


def _share_label(items: list[Node]) -> list[Node]:
    """`a = 4, -8, -10` labels all three, so that they stay one unordered list."""
    if len(items) > 1 and items[0].kind == "relation" and all(item.kind != "relation" for item in items[1:]):
        label, value = split_label(items[0])
        if label is not None:
            return [value, *items[1:]]
    return items


def _is_qualifier(node: Node) -> bool:
    """`k \\in \\mathbb{Z}`: says what a letter may be, not what the answer is."""
    if node.kind != "relation" or node.args[0] != ("in",):
        return False
    name = node.args[1][1]
    return name.kind == "sym" and str(name.args[0]).startswith("blackboard") and name.args[0] != REALS


def _spell_signs(node: Node) -> list[Node]:
    """The two answers that `\\pm` abbreviates, wherever in the node it stands; signs within one answer go together."""
    if not any(part.kind in ("pm", "mp") for part in walk(node)):
        return [node]
    if node.kind == "set":
        return [Node("set", tuple(choice for item in node.args for choice in _spell_signs(item)))]
    return [_with_sign(node, True), _with_sign(node, False)]


def _with_sign(node: Node, upper: bool) -> Node:
    def choose(part: Node) -> Node | None:
        if part.kind not in ("pm", "mp"):
            return None
        right = _with_sign(part.args[0], upper)
        return right if (part.kind == "pm") == upper else Node("neg", (right,))

    return rebuild(node, choose)


def split_label(node: Node) -> tuple[Node | None, Node]:
    """`x = 3` -> (x, 3); a chain `x = 6/2 = 3` keeps its last side, `\\sqrt2 \\approx 1.41` its exact first.

    A label names the answer: letters, products of letters, an applied function, a ratio or tuple of those, or words.
    """
    if node.kind != "relation":
        return None, node
    relations, sides = node.args
    if "approx" in relations:
        cut = relations.index("approx")
        if not cut and _is_label(sides[0]):
            return sides[0], sides[1]
        relations, sides = relations[:cut], sides[: cut + 1]
        if not relations:
            return None, sides[0]
    if len(relations) == 1 and relations[0] == "in" and _is_label(sides[0]):
        return sides[0], as_set(sides[1])
    if set(relations) != {"="}:
        return None, node
    if _is_label(sides[0]) and not (symbols(sides[0]) & symbols(sides[-1]) and sides[0].kind == "sym"):
        return sides[0], sides[-1]
    if len(sides) == 2 and sides[1].kind in ("sym", "apply") and not symbols(sides[0]):
        return sides[1], sides[0]  # `5 = x`
    if len(sides) > 2 or not any(symbols(side) for side in sides):
        return None, sides[-1]
    return None, Node("relation", (relations, sides))


def _is_label(node: Node) -> bool:
    if node.kind in ("sym", "text", "apply"):
        return True
    if node.kind == "const":
        return node.args[0] in ("e", "i")
    if node.kind in ("mul", "div", "ratio"):
        return all(_is_label(part) for part in node.args)
    if node.kind == "tuple":
        return all(_is_label(part) for part in node.args[2])
    if node.kind == "function":
        return node.args[0] in ("abs", "max", "min") and all(_is_label(part) for part in node.args[1])
    return node.kind == "unit" and _is_label(node.args[0])


def _same_label(first: Node, second: Node) -> bool:
    """Equal names; words name anything, and a subscript may be left out (`m` for `m_{\\max}`)."""
    if first == second or "text" in (first.kind, second.kind):
        return True
    if first.kind == second.kind == "sym":
        a, b = str(first.args[0]), str(second.args[0])
        return a.partition("_")[0] == b.partition("_")[0] and ("_" in a) != ("_" in b)
    if first.kind == second.kind == "apply":
        return first.args[0] == second.args[0] and len(first.args[1]) == len(second.args[1])
    return False


def _rename(node: Node, names: dict[str, Node]) -> Node:
    return rebuild(node, lambda part: names.get(part.args[0]) if part.kind == "sym" else None)


class _Comparison:
    """One comparison under one benchmark's rules."""

    def __init__(self, rules: AnswerRules, unit: str | None):
        self.rules = rules
        self.unit = unit
        self.budget = Budget()

    def same(self, gold: Node, answer: Node) -> bool:
        if gold == answer:
            return True
        if gold.kind == "relation" and answer.kind == "relation":
            return self._same_relation(gold, answer)
        gold, answer = split_label(gold)[1], split_label(answer)[1]
        gold, answer = as_set(gold), as_set(answer)
        if gold.kind in CONTAINERS or answer.kind in CONTAINERS:
            return self._same_container(gold, answer)
        return self._same_scalar(gold, answer)

    def _same_relation(self, gold: Node, answer: Node) -> bool:
        (gold_label, gold_value), (label, value) = split_label(gold), split_label(answer)
        if gold_label is not None and label is not None and _same_label(gold_label, label):
            if gold_label.kind == label.kind == "apply":
                pairs = zip(label.args[1], gold_label.args[1], strict=True)
                value = _rename(value, {old.args[0]: new for old, new in pairs if old.kind == "sym"})
            return self.same(gold_value, value)
        if gold_label is None and gold_value.kind != "relation":
            return self.same(gold_value, value)
        if label is None and value.kind != "relation":
            return self.same(gold_value, value)
        return self._same_equation(gold, answer)

    def _same_equation(self, gold: Node, answer: Node) -> bool:
        """Two equations of one curve, up to a constant factor; two inequalities with equal sides."""
        (relations, sides), (other, others) = gold.args, answer.args
        if len(relations) == len(other) == 1 and relations[0] in FLIPPED and FLIPPED[relations[0]] == other[0]:
            other, others = relations, others[::-1]
        if relations != other:
            return False
        if relations == ("=",) and not any(
            part.kind in CONTAINERS for side in (*sides, *others) for part in walk(side)
        ):
            curves = [Node("add", (left, Node("neg", (right,)))) for left, right in (sides, others)]
            return same_expression(curves[0], curves[1], scale=True, budget=self.budget)
        return all(self.same(a, b) for a, b in zip(sides, others, strict=True))

    def _same_container(self, gold: Node, answer: Node) -> bool:
        kinds = (gold.kind, answer.kind)
        if gold.kind in ("list", "set") and answer.kind in ("list", "set"):
            return self._same_collection(gold, answer)
        if kinds == ("tuple", "tuple"):
            brackets = gold.args[:2] == answer.args[:2] or (not is_interval(gold) and not has_mixed_brackets(answer))
            return brackets and self._same_sequence(gold.args[2], answer.args[2])
        if kinds == ("tuple", "list"):
            return gold.args[:2] == ("(", ")") and self._same_sequence(gold.args[2], _by_label(answer.args))
        if kinds == ("list", "tuple"):
            labels = {str(split_label(item)[0]) for item in gold.args if item.kind == "relation"}
            plain = answer.args[:2] == ("(", ")") and len(labels) == len(gold.args)
            return plain and self._same_sequence(_by_label(gold.args), answer.args[2])
        if kinds == ("matrix", "matrix"):
            rows = list(zip(gold.args, answer.args, strict=False))
            return len(gold.args) == len(answer.args) and all(self._same_sequence(a, b) for a, b in rows)
        if set(kinds) == {"matrix", "tuple"}:
            matrix, vector = (gold, answer) if gold.kind == "matrix" else (answer, gold)
            entries = tuple(row[0] for row in matrix.args) if len(matrix.args[0]) == 1 else matrix.args[0]
            flat = len(matrix.args) == 1 or len(matrix.args[0]) == 1
            return flat and vector.args[:2] == ("(", ")") and self._same_sequence(entries, vector.args[2])
        if "cup" in kinds:
            parts, others = union_parts(gold), union_parts(answer)
            return self._same_unordered(parts, others)
        if kinds == ("ratio", "ratio"):
            return self._same_sequence(gold.args, answer.args)
        if gold.kind == answer.kind and gold.kind in ("cap", "setminus"):
            return self._same_sequence(gold.args, answer.args)
        if gold.kind == "set" and len(gold.args) == 1 and answer.kind not in CONTAINERS:
            return self.same(gold.args[0], answer)
        if answer.kind == "set" and len(answer.args) == 1 and gold.kind not in CONTAINERS:
            return self.same(gold, answer.args[0])
        if answer.kind == "list" and gold.kind not in CONTAINERS:  # `\\frac12 \\text{ or } 0.5`
            return all(self.same(gold, item) for item in answer.args)
        return False

    def _same_collection(self, gold: Node, answer: Node) -> bool:
        first, second = (self._spread(node) for node in (gold, answer))
        labels = [split_label(item)[0] for item in gold.args]
        named = None not in labels and len({str(label) for label in labels}) == len(labels) > 1
        if named and all(item.kind != "relation" for item in answer.args):
            return self._same_sequence(first, second)
        return self._same_unordered(first, second)

    @staticmethod
    def _spread(node: Node) -> tuple[Node, ...]:
        """The items of a list; where its only item is a set or list, that one's items."""
        return node.args[0].args if len(node.args) == 1 and node.args[0].kind in ("list", "set") else node.args

    def _same_sequence(self, gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
        return len(gold) == len(answer) and all(self.same(a, b) for a, b in zip(gold, answer, strict=True))

    def _same_unordered(self, gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
        """A one-to-one matching, where an answer may repeat itself; the first free partner will do."""
        if len(gold) > len(answer) or len(answer) > MAX_ITEMS:
            return False
        free = list(answer)
        if len(answer) > len(gold):
            earlier = [answer[:place] for place in range(len(answer))]
            free = [
                item for item, seen in zip(answer, earlier, strict=True) if not any(self.same(item, a) for a in seen)
            ]
        for item in gold:
            partner = next((other for other in free if self.same(item, other)), None)
            if partner is None:
                return False
            free.remove(partner)
        return not free

    def _same_scalar(self, gold: Node, answer: Node) -> bool:
        if gold.kind == "text" or answer.kind == "text":
            return gold.kind == answer.kind and _words(gold.args[0]) == _words(answer.args[0])
        (gold, gold_unit), (answer, unit) = _quantity(gold), _quantity(answer)
        gold_unit = gold_unit or self.unit
        if gold_unit and unit:
            sizes = (measure(gold_unit), measure(unit))
            if None not in sizes:
                if sizes[0][0] != sizes[1][0]:
                    return False
                if sizes[0][1] != sizes[1][1]:
                    answer = Node("mul", (answer, Node("num", (sizes[1][1] / sizes[0][1],))))
            elif None in sizes and sizes != (None, None):
                return False
        if self._same_value(gold, answer):
            return True
        if self.rules.percent and (gold_unit == "%") != (unit == "%"):
            hundredth = Node("div", (answer if unit == "%" else gold, Node("num", (Fraction(100),))))
            return self._same_value(*((gold, hundredth) if unit == "%" else (hundredth, answer)))
        if "degree" in (gold_unit, unit) and _in_radians(gold if unit == "degree" else answer):
            degrees = [
                Node("degrees", (part,)) if own == "degree" else part
                for part, own in ((gold, gold_unit), (answer, unit))
            ]
            return gold_unit != unit and same_number(*degrees, radians=True, budget=self.budget)
        return False

    def _same_value(self, gold: Node, answer: Node) -> bool:
        if any(_is_log(part, 2) for part in walk(gold)):
            answer = rebuild(answer, _with_base_10)  # where the gold says log_10, a bare log means that too
        if symbols(gold) or symbols(answer) or any(part.kind == "apply" for part in (*walk(gold), *walk(answer))):
            return same_expression(gold, answer, budget=self.budget)
        return same_number(gold, answer, self.rules.tolerance, budget=self.budget)


def _by_label(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """`y = 2, x = 1` in the order of its letters, as a point (x, y) lists them; unlabelled items stay."""
    labels = [split_label(item)[0] for item in items]
    if all(label is not None and label.kind == "sym" for label in labels):
        return tuple(
            item
            for _, item in sorted(
                zip([label.args[0] for label in labels], items, strict=True), key=lambda pair: pair[0]
            )
        )
    return items


def _quantity(node: Node) -> tuple[Node, str | None]:
    """A value and its unit, looked for under signs: `-5\\%`, `90^\\circ`, `\\$5`."""
    if node.kind == "neg":
        value, unit = _quantity(node.args[0])
        return (Node("neg", (value,)), unit) if unit else (node, None)
    if node.kind == "unit":
        return node.args
    if node.kind == "percent":
        return node.args[0], "%"
    if node.kind == "degrees":
        return node.args[0], "degree"
    return node, None


def _is_log(node: Node, arguments: int) -> bool:
    named = node.kind == "function" and node.args[0] == "log" and len(node.args[1]) == arguments
    return named and (arguments == 1 or node.args[1][1] == TEN)


def _with_base_10(node: Node) -> Node | None:
    return Node("function", ("log", (*node.args[1], TEN))) if _is_log(node, 1) else None


def _in_radians(node: Node) -> bool:
    return any(part == Node("const", ("pi",)) for part in walk(node))


def _words(text: str) -> str:
    return "".join(sign for sign in text.casefold() if sign.isalnum())
