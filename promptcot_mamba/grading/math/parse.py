"""Answer text -> a tree of `Node`s, by a recursive-descent grammar. Nothing is evaluated, nothing is executed.

    statement := item (("," | ";" | "and" | "or") item)*          bare list: several answers
    item      := union (("=" | "<" | "in" | ...) union)*          chain of relations
    union     := ratio (("cup" | "cap" | "setminus") ratio)*
    ratio     := sum (":" sum)*
    sum       := ["+" | "-" | "pm"] term (("+" | "-" | "pm" | "mp") term)*
    term      := factor (("*" | "/" | nothing) factor)* [unit]
    factor    := atom ("^" argument | "!" | "%" | degree)*

Depth and length are bounded, so no text can exhaust the stack or the clock.
"""

import re
from collections.abc import Set
from fractions import Fraction
from itertools import pairwise

from promptcot_mamba.grading.math.atoms import Atoms
from promptcot_mamba.grading.math.tables import (
    CHANGING,
    CHANGING_BEHIND,
    CURRENCIES,
    NEVER_STARTS,
    PLAIN_BEHIND,
    RELATIONS,
)
from promptcot_mamba.grading.math.tokens import UnreadableError, tokenize
from promptcot_mamba.grading.math.tree import Node, name_of, negated, product, symbols, total
from promptcot_mamba.grading.math.units import is_unit_word

MAX_TOKENS = 1500
MAX_POSTFIXES = 8
MAX_UNIT_POWER = 6
INEQUALITIES = frozenset(["<", ">", "le", "ge", "ne"])
ONE = Node("num", (Fraction(1),))


def parse(text: str, tolerant: bool = False) -> Node:
    """The tree of one cleaned answer. Raises UnreadableError where the grammar does not cover it.

    `tolerant`: two numerals side by side are a product, a leading "or" is skipped, and a lone relation sign is a name,
    for what the published rules leave of an answer.
    """
    tokens = tokenize(text)
    if len(tokens) > MAX_TOKENS:
        raise UnreadableError(f"more than {MAX_TOKENS} signs")
    if not tokens:
        raise UnreadableError("empty")
    return _Parser(tokens, tolerant).statement()


class _Parser(Atoms):
    """One pass over the tokens. Methods are named after the grammar's rules."""

    def statement(self) -> Node:
        node = self.listing(())
        if (token := self.peek()) is not None:
            raise UnreadableError(f"unexpected {token.value}")
        return node

    def listing(self, closers: tuple[str, ...]) -> Node:
        """Items up to one of the closers (or the end): a `list` of them, or the one item itself.

        Semicolons separate more strongly than commas: `p = 5, q = 2; p = 7, q = 2` lists two pairs.
        """
        groups: list[list[Node]] = [[]]
        joined: set[str] = set()
        offered: list[int] = []  # where an "or" stands
        while self.peek() is not None and self.value() not in closers:
            if self.take(";"):
                groups.append([])
                continue
            if (sign := self._connector()) is not None:
                if sign in ("and", "or") and not any(groups) and not self.tolerant:
                    raise UnreadableError(f"begins with {sign}")
                joined.add(sign)
                offered += [len(groups[-1])] * (sign == "or")
                continue
            groups[-1].append(self.item())
            token = self.peek()
            if token is None or self.value() in closers:
                break
            if self.value() != ";":
                if (sign := self._connector()) is None:
                    raise UnreadableError(f"unexpected {token.value}")
                joined.add(sign)
                offered += [len(groups[-1])] * (sign == "or")
        if not any(groups):
            raise UnreadableError("nothing stands here")
        if len(groups) == 1 and offered:
            groups = _alternatives(groups[0], offered)
        return _listed([_listed(group, joined) for group in groups if group])

    def _connector(self) -> str | None:
        """The comma, "and" or "or" that comes, consumed."""
        if sign := self.take(",", "or", "and"):
            return sign
        token = self.peek()
        if token and token.kind in ("text", "word") and token.value.lower().strip(" ,") in ("and", "or"):
            self.at += 1
            return token.value.lower().strip(" ,")
        return None

    def item(self) -> Node:
        opened = list(iter(lambda: self.take("=", "approx"), None))  # "= 5", "\\approx 5"
        sides, relations = [self.union()], []
        if "approx" in opened and symbols(sides[0]):
            raise UnreadableError("only near an expression")
        while self.value() in RELATIONS:
            relations.append(self.next().value)
            sides.append(self.union())
        modular = self.take("pmod") is not None
        if not modular:
            relations = ["=" if sign == "equiv" else sign for sign in relations]  # f(x) is identically 0
        node = Node("relation", (tuple(relations), tuple(sides))) if relations else sides[0]
        return Node("mod", (node, self.argument())) if modular else node

    def union(self) -> Node:
        node = self.ratio()
        while (sign := self.take("cup", "cap", "setminus")) is not None:
            node = Node(sign, (node, self.ratio()))
        return node

    def ratio(self) -> Node:
        start = self.at
        sides = [self.sum()]
        while self.colons and self.take(":"):
            sides.append(self.sum())
        if len(sides) == 2 and self._is_clock(start):
            return Node("clock", tuple(sides))
        return Node("ratio", tuple(sides)) if len(sides) > 1 else sides[0]

    def _is_clock(self, start: int) -> bool:
        """Whether the two sides since `start` are written as hours and minutes: `11:30`, `2:05` and perhaps "pm"."""
        hours, colon, minutes = self.tokens[start : start + 3]
        plain = hours.kind == minutes.kind == "num" and colon.value == ":" and len(minutes.value) == 2
        return (
            plain and hours.value.isdigit() and minutes.value < "60" and len(hours.value) < 3 and int(hours.value) < 25
        )

    def sum(self) -> Node:
        terms = [self._signed(self.take("+", "-", "pm", "mp"))]
        while (sign := self.take("+", "-", "pm", "mp")) is not None:
            terms.append(self._signed(sign))
        return total(terms)

    def _signed(self, sign: str | None) -> Node:
        node = self.term()
        if sign in ("pm", "mp"):
            return Node(sign, (node,))
        if sign == "-" and node.kind == "matrix":
            return product([Node("num", (Fraction(-1),)), node])
        return negated(node) if sign == "-" else node

    def term(self) -> Node:
        factors = [self.factor()]
        while True:
            if self.take("*", "cdot", "times", "bullet"):
                factors.append(self._operand())
            elif self.take("/", "div"):
                self._divide(factors)
            elif (mixed := self._mixed(factors[-1])) is not None:
                factors[-1] = mixed
            elif self._starts_unit():
                factors = [Node("unit", (product(factors), self.unit()))]
                if self.starts_factor():
                    raise UnreadableError("a number after a unit")
            elif self.starts_factor():
                if not self.tolerant and self.tokens[self.at].kind == self.tokens[self.at - 1].kind == "num":
                    raise UnreadableError("two numbers side by side")
                factors.append(self.factor())
            else:
                return product(factors)

    def _divide(self, factors: list[Node]) -> None:
        """`a / b` is one fraction; further divisors are reciprocals in the product, so that no chain nests."""
        divisor = self._operand()
        if len(factors) == 1 and factors[0].kind != "div":
            factors[0] = _fraction(factors[0], divisor)
        else:
            factors.append(Node("div", (ONE, divisor)))

    def _operand(self) -> Node:
        """What follows `*` or `/`, which may carry a sign: `2 * -3`."""
        sign = self.take("+", "-")
        node = self.factor()
        return Node("neg", (node,)) if sign == "-" else node

    def _mixed(self, node: Node) -> Node | None:
        """`1 \\frac{4}{5}` and `1 4/5` are sums; the fraction must be proper and made of two whole numbers."""
        if node.kind != "num" or self.at == 0 or self.tokens[self.at - 1].kind != "num":
            return None
        start = self.at
        token = self.peek()
        if token and token.kind == "num" and self.value(1) == "/":
            part = _fraction(self.factor(), (self.next(), self.factor())[1])
        elif self.value() == "frac":
            part = self.factor()
        else:
            return None
        sign = part.kind if part.kind in ("percent", "degrees") else None  # `12\\frac12\\%`: of the whole number too
        part = part.args[0] if sign else part
        whole = part.kind == "div" and part.args[0].kind == part.args[1].kind == "num"
        if whole and part.args[0].args[0] < part.args[1].args[0]:
            mixed = Node("add", (node, part))
            return Node(sign, (mixed,)) if sign else mixed
        self.at = start
        if token and token.kind == "num":
            raise UnreadableError("two numbers side by side")
        return None

    def _starts_unit(self) -> bool:
        token = self.peek()
        if token is None or token.kind == "text":
            return token is not None
        if token.kind == "cmd" and token.value in ("min", "sec"):  # minutes and seconds where nothing follows
            after = self.peek(1)
            return after is None or after.value in (",", ";", "/", ")", "and", "or")
        return token.value in CURRENCIES if token.kind == "cmd" else token.kind == "word" and is_unit_word(token.value)

    def unit(self) -> str:
        """The words of a unit with its powers and slashes: `cm^2`, `km / h`, `dollars per hour`."""
        words: list[str] = []
        while (token := self.peek()) is not None:
            if self._starts_unit() or (token.kind in ("word", "sym") and words and words[-1] in ("/", "*", "per")):
                if token.value.lower().strip(" ,") in ("and", "or"):
                    break
                words.append(self.next().value)
                if _changes(words[-1].lower(), first=len(words) == 1):
                    raise UnreadableError(f"{words[-1]!r} is no unit")
            elif token.value == "^" and words:
                self.at += 1
                power = self.argument()
                sign = "-" if power.kind == "neg" else ""
                power = power.args[0] if sign else power
                if power.kind != "num" or power.args[0] > MAX_UNIT_POWER:
                    raise UnreadableError("a unit to no small power")
                words.append(f"^{sign}{power.args[0]}")
            elif (
                token.value in ("/", "cdot")
                and (after := self.peek(1))
                and after.kind in ("text", "word", "sym")
                and words
            ):
                words.append("/" if self.next().value == "/" else "*")
            else:
                break
        return " ".join(words)

    def starts_factor(self) -> bool:
        token = self.peek()
        if token is None:
            return False
        if token.kind in ("num", "sym", "word"):
            return True
        if token.value == "|":
            return not self.bars
        if token.kind == "op":
            return token.value in ("(", "[", "{", "\\{", "\\usd")
        return token.value not in RELATIONS and token.value not in NEVER_STARTS

    def factor(self) -> Node:
        node = self.atom()
        for _ in range(MAX_POSTFIXES):
            changed = self._postfix(node)
            if changed is None:
                return node
            node = changed
        raise UnreadableError("too many signs after one atom")

    def _postfix(self, node: Node) -> Node | None:
        """The node with the power, factorial, degree... that follows it; None where nothing does."""
        if self.value() == "^" and self.degree_follows():
            return Node("degrees", (node,))
        if self.take("^"):
            return self._decorated(node) or Node("pow", (node, self.argument()))
        if self.take("_"):
            subscript = self.subscript()
            decimal = subscript == "10" and node.kind == "num"  # digits in base ten are the number itself
            return node if decimal else Node("sym", (f"{name_of(node)}_{subscript}",))
        if self.take("!"):
            return Node("factorial", (node, 2 if self.take("!") else 1))
        if node.kind != "percent" and self.take("%"):
            return Node("percent", (node,))
        if self.take("degree"):
            return Node("degrees", (node,))
        if self.take("'"):
            return Node("sym", (f"{name_of(node)}'",))
        return None

    def degree_follows(self) -> bool:
        """Consume `^\\circ`, `^{\\circ}` or `^\\degree`."""
        brace = self.value(1) == "{"
        if self.value(1 + brace) not in ("circ", "degree") or (brace and self.value(3) != "}"):
            return False
        self.at += 4 if brace else 2
        return True

    def _decorated(self, node: Node) -> Node | None:
        """`x^\\prime`, `x^*`: part of the name."""
        if self.take("prime"):
            return Node("sym", (f"{name_of(node)}'",))
        if self.take("*", "star"):
            return Node("sym", (f"{name_of(node)}*",))
        return None


def _fraction(upper: Node, lower: Node) -> Node:
    """`1/4` as one fraction; a sign behind it is the whole fraction's: `1/4 %` is a quarter of a percent."""
    if lower.kind in ("percent", "degrees") and upper.kind == "num":
        return Node(lower.kind, (Node("div", (upper, lower.args[0])),))
    return Node("div", (upper, lower))


def _changes(text: str, first: bool) -> bool:
    """Whether words behind a number say another value than the number: "more", "thirds", "to 99", "for odd n"."""
    said = text.split()
    if CHANGING & {word.strip("().,") for word in said} or _COUNTED.search(text) or _GOES_ON.search(text):
        return True
    return first and bool(said) and said[0].strip("-.,") in CHANGING_BEHIND and PLAIN_BEHIND.match(text) is None


_GOES_ON = re.compile(r"\band \w+ing\b|\b(?:square|cube|cubic|fourth) roots?\b")  # "42 F and falling"
_COUNTED = re.compile(r"(?<![a-z\d^{-])\d+(?!\d|-[a-z])|=")  # a number in the words, powers (`cm^2`, `m2`) apart


def _alternatives(items: list[Node], places: list[int]) -> list[list[Node]]:
    """`x = 1, y = 2 or x = 3, y = 4` as two points: "or" parts more strongly than commas between parts of all labels.

    Labels that differ on the two sides of an "or" (`x = 3 or y = 4`) make no point at all.
    """
    ends = sorted({0, *places, len(items)})
    parts = [items[start:end] for start, end in pairwise(ends)]
    labels = [[_letter(item) for item in part] for part in parts]
    if len(parts) < 2 or any("" in names for names in labels):
        return [items]
    if all(len(names) > 1 and sorted(names) == sorted(labels[0]) for names in labels):
        return parts
    if all(len(names) == 1 for names in labels) and len({names[0] for names in labels}) == len(parts):
        raise UnreadableError("one letter or another")
    return [items]


def _letter(item: Node) -> str:
    """The letter that an item gives a value, `x` of `x = 3`; nothing where it gives none."""
    named = item.kind == "relation" and item.args[0] == ("=",) and item.args[1][0].kind == "sym"
    return str(item.args[1][0].args[0]) if named else ""


def _listed(items: list[Node], joined: Set[str] = frozenset()) -> Node:
    """A list of items, or their conjunction: inequalities joined by "and", or by commas with a `\\ne` among them."""
    if len(items) == 1:
        return items[0]
    signs = [set(item.args[0]) for item in items if item.kind == "relation" and set(item.args[0]) <= INEQUALITIES]
    if len(signs) == len(items) and (
        joined == {"and"} or (joined == {","} and {"ne"} in signs and {"ne"} != set().union(*signs))
    ):
        return Node("both", tuple(items))
    return Node("list", tuple(items))
