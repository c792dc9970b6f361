"""Whether two parsed answers are the same answer: shapes first (lists, tuples, intervals...), then values.

The conventions, each strict where mathematics distinguishes and lenient where only typography differs:
tuples are ordered and keep their brackets, sets and bare lists of solutions are not ordered; nothing may be missing;
a label (`x =`, `f(x) =`, `x \\in`) may be left out, not changed; units may be left out, not changed.
"""

from fractions import Fraction

from promptcot_mamba.grading.math.evaluate import Budget
from promptcot_mamba.grading.math.families import (
    NOWHERE,
    Domain,
    Domains,
    are_apart,
    domain_of,
    same_family,
    same_points,
)
from promptcot_mamba.grading.math.gold import AnswerRules
from promptcot_mamba.grading.math.labels import (
    Statement,
    is_constant,
    read_statement,
    same_label,
    with_letters_of,
    with_parameter_of,
)
from promptcot_mamba.grading.math.prepare import MAX_ITEMS, as_point, has_free_signs, prepare
from promptcot_mamba.grading.math.regions import same_region
from promptcot_mamba.grading.math.sets import (
    FLIPPED,
    as_set,
    bound_letters,
    has_mixed_brackets,
    is_interval,
    union_parts,
)
from promptcot_mamba.grading.math.shapes import (
    as_binomial,
    bare_point,
    bare_words,
    by_label,
    equated_letters,
    holds_pi,
    is_log,
    is_percent,
    is_point,
    is_radian,
    label_of,
    quantity_of,
    residue_of,
    restrictions,
    with_base_10,
    with_constants_of,
)
from promptcot_mamba.grading.math.tree import Node, rebuild, rename, symbols, walk
from promptcot_mamba.grading.math.units import Dimension, measure
from promptcot_mamba.grading.math.value import UndecidedError, approximate, is_near, same_expression, same_number

ZERO, ONE = (Node("num", (Fraction(value),)) for value in (0, 1))
UNIT_VECTORS = ("hat i", "hat j", "hat k")
TEMPERATURES: list[set[Dimension]] = [
    {(("angle", 1),), ((scale, 1),)} for scale in ("celsius", "fahrenheit")
]  # "degrees" says either
POUNDS: set[Dimension] = {(("weight", 1),), (("sterling", 1),)}  # and so does "pounds"
COMPOSED = {"cup", "cap", "setminus", "both"}
CONTAINERS = frozenset(
    ["list", "set", "tuple", "matrix", "cup", "cap", "setminus", "ratio", "clock", "both", "relation"]
)


def same_answer(
    gold: Node, answer: Node, rules: AnswerRules, unit: str | None = None, domains: Domains = NOWHERE
) -> bool:
    """Whether `answer` is `gold`, under its benchmark's rules; `domains`: what words say of the letters of either.

    Raises UndecidedError where neither can be shown.
    """
    whole = domains[0].whole, domains[1].whole
    domains = domain_of(gold, domains[0]), domain_of(answer, domains[1])
    unit = "degree" if unit and "circ" in unit else unit
    if restrictions(gold) != restrictions(answer) or are_apart(gold, domains):
        return False
    golds, answers = (prepare(node, only) for node, only in zip((gold, answer), whole, strict=True))
    if any(part.kind == "tuple" for part in walk(golds)):  # all parts of a point share their letter
        moved = same_points(golds, answers, domains)
        if any(_Comparison(rules, unit, NOWHERE).same(golds, one) for one in moved):
            return True
        domains = NOWHERE
    if _Comparison(rules, unit, domains).same(golds, answers):
        return True
    if not has_free_signs(answer):
        return False
    return _Comparison(rules, unit, domains).same(golds, prepare(answer, whole[1], free=True))


class _Comparison:
    """One comparison under one benchmark's rules."""

    def __init__(self, rules: AnswerRules, unit: str | None, domains: Domains):
        self.rules = rules
        self.unit = unit
        self.domains = domains
        self.budget = Budget()

    def same(self, gold: Node, answer: Node) -> bool:
        if gold == answer:
            return True
        if "mod" in (gold.kind, answer.kind):
            return self._same_residue(gold, answer)
        gold, answer = as_point(gold, answer), as_point(answer, gold)
        said, claimed = read_statement(gold, is_gold=True), read_statement(answer)
        if gold.kind == answer.kind == "relation":
            return self._same_relation(gold, answer, said, claimed)
        gold = said.values[-1] if said else gold
        if not claimed and answer.kind == "relation" and set(answer.args[0]) == {"="} and gold.kind not in CONTAINERS:
            return all(self._same_shape(gold, side) for side in answer.args[1])  # `n(n+1) = n^2+n`, one expression
        return self._claims(gold, claimed) if claimed else self._same_shape(gold, answer)

    def _claims(self, gold: Node, claimed: Statement) -> bool:
        """Whether every value claimed is the gold, and what is said to be close to it is."""
        near, (*earlier, last) = claimed.near, claimed.values
        measured = earlier and not near and all(value.kind == "unit" for value in claimed.values)
        if measured and all(self._same_shape(last, value) for value in earlier):
            return self._same_shape(gold, last)  # `1 hour = 60 minutes` converts
        if not all(self._same_shape(gold, value) for value in claimed.values):
            rounded = gold.kind == "decimal" and any(self._same_shape(gold, part) for part in near)
            rounded = rounded and all(is_constant(value) for value in claimed.values)
            return rounded and all(is_near(value, gold, self.budget) for value in (*claimed.values, *near))
        return all(is_near(claimed.values[-1], part, self.budget) for part in near)

    def _same_shape(self, gold: Node, answer: Node) -> bool:
        gold, answer = as_set(gold), as_set(answer)
        if gold.kind == "tuple" and len(gold.args[2]) > 1:
            answer = bare_point(answer)
        kinds = {gold.kind, answer.kind}
        if kinds & CONTAINERS and "unit" not in kinds:
            return self._same_container(gold, answer)
        return self._same_scalar(gold, answer)

    def _same_relation(self, gold: Node, answer: Node, said: Statement | None, claimed: Statement | None) -> bool:
        if said and claimed:
            if len(names := equated_letters(gold)) > 1:  # `a = b = 1` says more than `a = 1`
                letters = len(names) == len(gold.args[1]) == len(answer.args[1])  # `a = b = c`
                return names == equated_letters(answer) and (letters or self._claims(said.values[-1], claimed))
            if said.label is None or claimed.label is None:
                return self._claims(said.values[-1], claimed)
            claimed = with_letters_of(said, claimed)
            if claimed.label is not None and same_label(said.label, claimed.label):
                if self._claims(said.values[-1], claimed):
                    return True
                renamed = with_parameter_of(said, claimed)
                return renamed is not None and self._claims(said.values[-1], renamed)
        return self._same_equation(gold, answer)

    def _same_residue(self, gold: Node, answer: Node) -> bool:
        """`x \\equiv 3 \\pmod 7`: residues of one modulus; the modulus may be added to a residue, not left out."""
        if gold.kind != answer.kind and self._same_class(gold, answer):
            return True
        if answer.kind != "mod":
            return False
        claim, modulus = answer.args
        if claim.kind == "relation" and len(claim.args[1]) == 2 and all(is_constant(side) for side in claim.args[1]):
            power, claim = claim.args[1]
            if not self._is_likely(power, claim, modulus):  # `2^{100} \\equiv 376 \\pmod{1000}`
                return False
        label, value = residue_of(claim)
        if gold.kind != "mod":
            return self.same(gold, value) and self._is_reduced(value, modulus)
        (own_label, own), own_modulus = residue_of(gold.args[0]), gold.args[1]
        if label is not None and own_label is not None and not same_label(own_label, label):
            return False
        return self.same(own_modulus, modulus) and (self._congruent(own, value, modulus) or self.same(own, value))

    def _congruent(self, first: Node, second: Node, modulus: Node) -> bool:
        """Whether two numbers are known to differ by a multiple of the modulus."""
        turns = Node("div", (Node("add", (first, Node("neg", (second,)))), modulus))
        constant = not symbols(first) and not symbols(second) and not symbols(modulus)
        return constant and same_number(turns, Node("function", ("floor", (turns,))), budget=self.budget)

    def _same_class(self, gold: Node, answer: Node) -> bool:
        """`24k + 17`, its letter not bounded, and `n \\equiv 17 \\pmod{24}`: one class of integers."""
        residue, family = (gold, answer) if gold.kind == "mod" else (answer, gold)
        (label, value), modulus = residue_of(residue.args[0]), residue.args[1]
        said = read_statement(family)
        if said is None or symbols(value) or symbols(modulus) or any(one.bounded for one in self.domains):
            return False
        if label is not None and said.label is not None and not same_label(label, said.label):
            return False
        written = Node("add", (Node("mul", (modulus, Node("sym", ("k",)))), value))
        return same_family(written, said.values[-1], (Domain(whole=True), Domain(whole=True)), self.budget)

    def _is_likely(self, first: Node, second: Node, modulus: Node) -> bool:
        """Whether a congruence holds, or says of a number too large to compute what nobody can check here."""
        try:
            return self._congruent(first, second, modulus)
        except UndecidedError:
            return True

    def _is_reduced(self, value: Node, modulus: Node) -> bool:
        """Whether `value` is below the modulus: `5 \\bmod 3` asks for a remainder that is not 5."""
        if symbols(value) or symbols(modulus) or value.kind in CONTAINERS:
            return not symbols(value) or bool(symbols(modulus))  # `x \\bmod 1` is not x
        return approximate(value, self.budget) < approximate(modulus, self.budget)

    def _same_equation(self, gold: Node, answer: Node) -> bool:
        """Two equations of one curve, up to a constant factor; two inequalities with equal sides."""
        (relations, sides), (other, others) = gold.args, answer.args
        if len(relations) == len(other) == 1 and relations[0] in FLIPPED and FLIPPED[relations[0]] == other[0]:
            other, others = relations, others[::-1]
        if relations != other:
            return False
        if set(relations) == {"="} and all(side.kind == "sym" for side in (*sides, *others)):
            return equated_letters(gold) == equated_letters(answer)
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
            return gold.args[:2] == ("(", ")") and self._same_sequence(gold.args[2], by_label(answer.args))
        if kinds == ("list", "tuple"):
            labels = {str(label_of(item)) for item in gold.args if item.kind == "relation"}
            plain = answer.args[:2] == ("(", ")") and len(labels) == len(gold.args)
            return plain and self._same_sequence(by_label(gold.args), answer.args[2])
        if kinds == ("matrix", "matrix"):
            rows = list(zip(gold.args, answer.args, strict=False))
            return len(gold.args) == len(answer.args) and all(self._same_sequence(a, b) for a, b in rows)
        if set(kinds) == {"matrix", "tuple"}:
            matrix, vector = (gold, answer) if gold.kind == "matrix" else (answer, gold)
            entries = tuple(row[0] for row in matrix.args) if len(matrix.args[0]) == 1 else matrix.args[0]
            flat = len(matrix.args) == 1 or len(matrix.args[0]) == 1
            return flat and vector.args[:2] == ("(", ")") and self._same_sequence(entries, vector.args[2])
        if kinds == ("list", "cup") and all(is_point(item) for item in gold.args):
            return False
        if set(kinds) & COMPOSED and (found := same_region(gold, answer, self.budget)) is not None:
            return found
        if "cup" in kinds:
            parts, others = union_parts(gold), union_parts(answer)
            return len(bound_letters((*parts, *others))) < 2 and self._same_unordered(parts, others)
        if set(kinds) & {"ratio", "clock"}:
            return self._same_ratio(gold, answer)
        if "both" in kinds:
            return gold.kind == answer.kind and self._same_unordered(gold.args, answer.args)
        if gold.kind == answer.kind and gold.kind in ("cap", "setminus"):
            turned = gold.kind == "cap" and self._same_sequence(gold.args[::-1], answer.args)
            return turned or self._same_sequence(gold.args, answer.args)
        if gold.kind in ("tuple", "matrix") and answer.kind not in CONTAINERS:
            return self._same_vector(gold, answer)
        if gold.kind == "set" and len(gold.args) == 1 and answer.kind not in CONTAINERS:
            return self.same(gold.args[0], answer)
        if answer.kind == "set" and len(answer.args) == 1 and gold.kind not in CONTAINERS:
            return answer.args[0].kind != "set" and self.same(gold, answer.args[0])
        if answer.kind == "list" and gold.kind not in CONTAINERS:  # `\\frac12 \\text{ or } 0.5`
            first, *rest = answer.args
            return self.same(gold, first) and all(self.same(gold, one) and self.same(first, one) for one in rest)
        return False

    def _same_ratio(self, gold: Node, answer: Node) -> bool:
        """`2:3` is `4:6` and two thirds; a clock time is only itself."""
        kinds = {gold.kind, answer.kind}
        if kinds == {"clock"}:
            return self._same_sequence(gold.args, answer.args)
        if kinds <= {"ratio", "clock"}:
            if len(gold.args) != len(answer.args):
                return False
            if ZERO in (*gold.args, *answer.args):
                return self._same_sequence(gold.args, answer.args)
            products = [
                (Node("mul", (part, answer.args[0])), Node("mul", (other, gold.args[0])))
                for part, other in zip(gold.args, answer.args, strict=True)
            ]
            return all(self._same_value(a, b) for a, b in products)
        if kinds & CONTAINERS - {"ratio", "clock"}:
            return False
        gold, answer = (
            Node("div", node.args) if node.kind in ("ratio", "clock") and len(node.args) == 2 else node
            for node in (gold, answer)
        )
        return not {gold.kind, answer.kind} & CONTAINERS and self._same_value(gold, answer)

    def _same_collection(self, gold: Node, answer: Node) -> bool:
        first, second = (self._spread(node) for node in (gold, answer))
        labels = [label_of(item) for item in gold.args]
        named = None not in labels and len({str(label) for label in labels}) == len(labels) > 1
        if named and all(item.kind != "relation" for item in answer.args):
            return self._same_sequence(first, second)
        return self._same_unordered(first, second)

    @staticmethod
    def _spread(node: Node) -> tuple[Node, ...]:
        """The items of a list; where its only item is a set or list, that one's items."""
        inner = node.args[0] if len(node.args) == 1 else node
        nested = node.kind == inner.kind == "set" and inner is not node
        return inner.args if inner.kind in ("list", "set") and inner.args and not nested else node.args

    def _same_sequence(self, gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
        return len(gold) == len(answer) and all(self.same(a, b) for a, b in zip(gold, answer, strict=True))

    def _same_vector(self, gold: Node, answer: Node) -> bool:
        """A tuple or column, and `2\\mathbf{i} - \\mathbf{j}`."""
        entries = gold.args[2] if gold.kind == "tuple" else tuple(row[0] for row in gold.args)
        plain = gold.args[:2] == ("(", ")") if gold.kind == "tuple" else len(gold.args[0]) == 1
        if not plain or not 1 < len(entries) < 4 or not symbols(answer) or not symbols(answer) <= set(UNIT_VECTORS):
            return False
        origin = rename(answer, dict.fromkeys(UNIT_VECTORS, ZERO))
        parts = [
            rename(answer, {name: ONE if name == own else ZERO for name in UNIT_VECTORS})
            for own in UNIT_VECTORS[: len(entries)]
        ]
        beyond = symbols(answer) <= set(UNIT_VECTORS[: len(entries)])
        return beyond and self._same_value(ZERO, origin) and self._same_sequence(entries, tuple(parts))

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
            return gold.kind == answer.kind and bare_words(gold.args[0]) == bare_words(answer.args[0])
        (gold, gold_unit), (answer, unit) = quantity_of(gold), quantity_of(as_binomial(answer))
        gold_unit = gold_unit or self.unit
        gold_unit, unit = (
            None if name and is_radian(name, part) else name for name, part in ((gold_unit, gold), (unit, answer))
        )
        if gold_unit and unit:
            own, other = measure(gold_unit), measure(unit)
            if (own is None) != (other is None):
                return False
            if own is not None and other is not None:
                if own[0] != other[0] and {own[0], other[0]} not in (*TEMPERATURES, POUNDS):
                    return False
                if own[0] == other[0] and own[1] != other[1]:
                    answer = Node("mul", (answer, Node("num", (other[1] / own[1],))))
        if {gold.kind, answer.kind} & CONTAINERS:
            return self._same_container(gold, answer)
        if is_percent(gold_unit) != is_percent(unit):
            return self._same_percentage(gold, answer, is_percent(gold_unit))
        if "degree" in (gold_unit, unit) and gold_unit != unit and holds_pi(gold) and holds_pi(answer):
            return False  # `\frac{\pi}{6}^\circ` is no sixth of pi
        if self._same_value(gold, answer):
            return True
        if "degree" in (gold_unit, unit) and holds_pi(gold if unit == "degree" else answer):
            first, second = (
                Node("degrees", (part,)) if name == "degree" else part
                for part, name in ((gold, gold_unit), (answer, unit))
            )
            return gold_unit != unit and same_number(first, second, radians=True, budget=self.budget)
        return False

    def _same_percentage(self, gold: Node, answer: Node, gold_has_sign: bool) -> bool:
        """A percentage and a number: the number of percent, its sign left out, or the value, 28 % = 0.28.

        A gold of at most one without a sign is a share, and `\\frac37\\%` is none of it.
        """
        hundredth = Node("div", (gold if gold_has_sign else answer, Node("num", (Fraction(100),))))
        if gold_has_sign:  # a tolerance was stated in percent
            return self._same_value(gold, answer) or self._same_value(hundredth, answer, self.rules.tolerance / 100)
        if self._same_value(gold, hundredth):
            return True
        return self._same_value(gold, answer) and (bool(symbols(gold)) or abs(approximate(gold, self.budget)) > 1)

    def _same_value(self, gold: Node, answer: Node, tolerance: float | None = None) -> bool:
        if any(is_log(part, 2) for part in walk(gold)):
            answer = rebuild(answer, with_base_10)  # where the gold says log_10, a bare log means that too
        if is_constant(gold) and any(
            part.kind == "mul" and ZERO in part.args and symbols(part) for part in walk(answer)
        ):
            return False  # `beyond 0`: words whose letters were factors
        answer = with_constants_of(gold, answer)
        if symbols(gold) or symbols(answer) or any(part.kind == "apply" for part in (*walk(gold), *walk(answer))):
            return same_expression(gold, answer, budget=self.budget) or same_family(
                gold, answer, self.domains, self.budget
            )
        allowed = self.rules.tolerance if tolerance is None else tolerance
        return same_number(gold, answer, allowed, budget=self.budget)
