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

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from promptcot_mamba.grading.math_tables import (
    ACCENTS,
    FUNCTIONS,
    LETTERS,
    MATRICES,
    NEVER_STARTS,
    RELATIONS,
    SILENT,
)
from promptcot_mamba.grading.math_tokens import Token, UnreadableError, tokenize
from promptcot_mamba.grading.math_units import is_unit_word

MAX_DEPTH = 40
MAX_TOKENS = 1500
MAX_DIGITS = 4000  # CPython refuses longer decimal texts; nothing that long is an answer to be computed with


class Node(NamedTuple):
    """One node; `args` holds nodes, names or numbers, by kind (see the grammar's methods)."""

    kind: str
    args: tuple[Any, ...]


CONSTANTS = {"pi": "pi", "infty": "inf"}
CLOSERS = {"(": (")", "]"), "[": ("]", ")")}
# Single letters that mathematics writes functions with; before "(" they are applied, not multiplied.
APPLIED = frozenset("fghFGHPQW")
DEGREE = Node("degree", ())


def parse(text: str) -> Node:
    """The tree of one cleaned answer. Raises UnreadableError where the grammar does not cover it."""
    tokens = tokenize(text)
    if len(tokens) > MAX_TOKENS:
        raise UnreadableError(f"more than {MAX_TOKENS} signs")
    if not tokens:
        raise UnreadableError("empty")
    return _Parser(tokens).statement()


def number(text: str) -> Node:
    """A decimal numeral as an exact fraction: `num` for whole numbers, `decimal` with a point or exponent."""
    if len(text) > MAX_DIGITS:
        raise UnreadableError("a number of more than 4,000 digits")
    if text.isdigit():
        return Node("num", (Fraction(int(text)),))
    mantissa, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_DIGITS:
        raise UnreadableError("an exponent above 4,000")
    return Node("decimal", (Fraction(mantissa) * Fraction(10) ** int(exponent or 0), len(mantissa.partition(".")[2])))


class _Parser:
    """One pass over the tokens. Methods are named after the grammar's rules."""

    def __init__(self, tokens: list[Token]):
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0

    # Tokens

    def peek(self, ahead: int = 0) -> Token | None:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else None

    def value(self, ahead: int = 0) -> str | None:
        """The value of a coming operator or command; None for numbers, symbols and words."""
        token = self.peek(ahead)
        return token.value if token and token.kind in ("op", "cmd") else None

    def take(self, *values: str) -> str | None:
        """Consume the coming sign if it is one of these."""
        value = self.value()
        if value in values:
            self.at += 1
            return value
        return None

    def expect(self, *values: str) -> str:
        found = self.take(*values)
        if found is None:
            coming = self.peek()
            raise UnreadableError(f"expected {' or '.join(values)}, found {coming.value if coming else 'the end'}")
        return found

    def next(self) -> Token:
        token = self.peek()
        if token is None:
            raise UnreadableError("ends too early")
        self.at += 1
        return token

    # Rules

    def statement(self) -> Node:
        node = self.listing(())
        if self.peek() is not None:
            raise UnreadableError(f"unexpected {self.peek().value}")
        return node

    def listing(self, closers: tuple[str, ...]) -> Node:
        """Items up to one of the closers (or the end): a `list` of them, or the one item itself.

        Semicolons separate more strongly than commas: `p = 5, q = 2; p = 7, q = 2` lists two pairs.
        """
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        groups: list[list[Node]] = [[]]
        while self.peek() is not None and self.value() not in closers:
            if self.take(";"):
                groups.append([])
                continue
            if self.take(",", "or", "and") or self._word_connector():
                continue
            groups[-1].append(self.item())
            if self.peek() is None or self.value() in closers:
                break
            if self.value() not in (",", ";", "or", "and") and not self._word_connector():
                raise UnreadableError(f"unexpected {self.peek().value}")
        self.depth -= 1
        return _listed([_listed(group) for group in groups if group])

    def _word_connector(self) -> bool:
        token = self.peek()
        if token and token.kind in ("text", "word") and token.value.lower().strip(" ,") in ("and", "or"):
            self.at += 1
            return True
        return False

    def item(self) -> Node:
        while self.take("="):  # "= 5"
            pass
        sides, relations = [self.union()], []
        while self.value() in RELATIONS:
            relations.append(self.next().value)
            sides.append(self.union())
        return Node("relation", (tuple(relations), tuple(sides))) if relations else sides[0]

    def union(self) -> Node:
        node = self.ratio()
        while (sign := self.take("cup", "cap", "setminus")) is not None:
            node = Node(sign, (node, self.ratio()))
        return node

    def ratio(self) -> Node:
        sides = [self.sum()]
        while self.take(":"):
            sides.append(self.sum())
        return Node("ratio", tuple(sides)) if len(sides) > 1 else sides[0]

    def sum(self) -> Node:
        node = self._signed(self.take("+", "-", "pm", "mp"), None)
        while (sign := self.take("+", "-", "pm", "mp")) is not None:
            node = self._signed(sign, node)
        return node

    def _signed(self, sign: str | None, left: Node | None) -> Node:
        right = self.term()
        if sign in ("pm", "mp"):
            return Node(sign, (left, right))
        if sign == "-":
            right = Node("neg", (right,))
        return right if left is None else Node("add", (left, right))

    def term(self) -> Node:
        node = self.factor()
        while True:
            if self.take("*", "cdot", "times", "bullet"):
                node = product(node, self._operand())
            elif self.take("/", "div"):
                node = Node("div", (node, self._operand()))
            elif (mixed := self._mixed(node)) is not None:
                node = mixed
            elif self._starts_unit():
                node = Node("unit", (node, self.unit()))
            elif self._starts_factor():
                node = product(node, self.factor())
            else:
                return node

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
            part = Node("div", (self.factor(), (self.next(), self.factor())[1]))
        elif self.value() == "frac":
            part = self.factor()
        else:
            return None
        whole = part.kind == "div" and part.args[0].kind == part.args[1].kind == "num"
        if whole and part.args[0].args[0] < part.args[1].args[0]:
            return Node("add", (node, part))
        self.at = start
        if token.kind == "num":
            raise UnreadableError("two numbers side by side")
        return None

    def _starts_unit(self) -> bool:
        token = self.peek()
        return token is not None and (token.kind == "text" or (token.kind == "word" and is_unit_word(token.value)))

    def unit(self) -> str:
        """The words of a unit with its powers and slashes: `cm^2`, `km / h`, `dollars per hour`."""
        words: list[str] = []
        while (token := self.peek()) is not None:
            if self._starts_unit() or (token.kind in ("word", "sym") and words and words[-1] in ("/", "per")):
                if token.value.lower().strip(" ,") in ("and", "or"):
                    break
                words.append(self.next().value)
            elif token.value == "^" and words:
                self.at += 1
                power = self.argument()
                words.append("^" + str(power.args[0]) if power.kind == "num" else "^?")
            elif (
                token.value in ("/", "cdot") and self.peek(1) and self.peek(1).kind in ("text", "word", "sym") and words
            ):
                words.append("/" if self.next().value == "/" else "*")
            else:
                break
        return " ".join(words)

    def _starts_factor(self) -> bool:
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
        while True:
            if self.value() == "^" and self._degree_follows():
                node = Node("degrees", (node,))
            elif self.take("^"):
                node = self._decorated(node) or Node("pow", (node, self.argument()))
            elif self.take("_"):
                node = Node("sym", (f"{_name(node)}_{self.subscript()}",))
            elif self.take("!"):
                node = Node("factorial", (node, 2 if self.take("!") else 1))
            elif self.take("%"):
                node = Node("percent", (node,))
            elif self.take("degree"):
                node = Node("degrees", (node,))
            elif self.take("'"):
                node = Node("sym", (f"{_name(node)}'",))
            else:
                return node

    def _degree_follows(self) -> bool:
        """Consume `^\\circ`, `^{\\circ}` or `^\\degree`."""
        brace = self.value(1) == "{"
        if self.value(1 + brace) not in ("circ", "degree") or (brace and self.value(3) != "}"):
            return False
        self.at += 4 if brace else 2
        return True

    def _decorated(self, node: Node) -> Node | None:
        """`x^\\prime`, `x^*`: part of the name."""
        if self.take("prime"):
            return Node("sym", (f"{_name(node)}'",))
        if self.take("*", "star"):
            return Node("sym", (f"{_name(node)}*",))
        return None

    def argument(self) -> Node:
        """The argument of `^`, `_` or a command: a braced group, a signed number, or one atom."""
        if self.value() == "{":
            return self._braced()
        if self.value() in ("-", "+"):
            sign = self.next().value
            node = self.atom()
            return Node("neg", (node,)) if sign == "-" else node
        return self.atom()

    def subscript(self) -> str:
        """A subscript as text: it is part of a name, not arithmetic. `_2`, `_{max}`, `_\\max`."""
        if not self.take("{"):
            return self.next().value
        parts, depth = [], 1
        while True:
            value = self.next().value
            depth += (value == "{") - (value == "}")
            if depth == 0:
                return "".join(parts)
            parts.append(value)

    def digit_argument(self) -> Node:
        """The argument of `\\frac` as TeX takes it: one digit where braces are missing, so `\\frac12` is a half."""
        token = self.peek()
        if token and token.kind == "num" and len(token.value) > 1 and token.value.isdigit():
            self.tokens[self.at] = Token("num", token.value[1:])
            return number(token.value[0])
        return self.argument()

    def _braced(self) -> Node:
        self.expect("{")
        bars, self.bars = self.bars, 0
        node = self.listing(("}",))
        self.bars = bars
        self.expect("}")
        if node.kind == "list":
            return Node("set", node.args)
        return node

    def atom(self) -> Node:
        token = self.next()
        if token.kind == "num":
            return self._repeating(token.value) or number(token.value)
        if token.kind == "sym":
            return self._symbol(token.value)
        if token.kind == "text":
            return Node("text", (token.value,))
        if token.kind == "word":
            self.tokens[self.at : self.at] = [Token("sym", letter) for letter in token.value[1:]]
            return self._symbol(token.value[0])
        if token.kind == "op":
            self.at -= 1
            return self._bracketed()
        return self._command(token.value)

    def _repeating(self, text: str) -> Node | None:
        """`0.1\\overline{6}`: the digits under the line repeat for ever."""
        if "." not in text or self.value() != "overline" or self.value(1) != "{" or self.value(3) != "}":
            return None
        token = self.peek(2)
        if token.kind != "num" or not token.value.isdigit() or len(token.value) > 50:
            return None
        self.at += 4
        fixed = number(text + "0")
        shift = Fraction(1, 10 ** len(text.partition(".")[2]))
        return Node("num", (fixed.args[0] + shift * Fraction(int(token.value), 10 ** len(token.value) - 1),))

    def _symbol(self, name: str) -> Node:
        if self.value() == "_":
            self.at += 1
            name = f"{name}_{self.subscript()}"
        while self.take("'"):
            name += "'"
        if name[0] in APPLIED and self.value() == "(":
            arguments = self._bracketed()
            return Node("apply", (name, arguments.args[2] if arguments.kind == "tuple" else (arguments,)))
        if name in ("e", "i"):
            return Node("const", (name,))
        return Node("sym", (name,))

    def _bracketed(self) -> Node:
        sign = self.next().value
        bars, self.bars = self.bars, 0
        if sign in CLOSERS:
            inner = self.listing(CLOSERS[sign])
            close = self.expect(*CLOSERS[sign])
            if inner.kind == "list":
                inner = Node("tuple", (sign, close, inner.args))
        elif sign == "\\{":
            inner = self._set()
        elif sign == "{":
            self.at -= 1
            inner = self._braced()
        elif sign in ("|", "\\|"):
            self.bars = 1
            inner = Node("function", ("abs", (self.sum(),)))
            self.expect(sign)
        elif sign == "\\usd":
            inner = Node("unit", (self.factor(), "dollar"))
        else:
            raise UnreadableError(f"unexpected {sign}")
        self.bars = bars
        return inner

    def _set(self) -> Node:
        """`\\{1, 2\\}`, or `\\{x \\mid x > 1\\}`, which is its condition."""
        inner = self.listing(("\\}", "mid", ":", "|"))
        if self.take("mid", ":", "|"):
            inner = self.listing(("\\}",))
            self.expect("\\}")
            return inner
        self.expect("\\}")
        return Node("set", inner.args if inner.kind == "list" else (inner,))

    def _command(self, name: str) -> Node:
        if name == "frac":
            upper = self.digit_argument()
            return Node("div", (upper, self.digit_argument()))
        if name == "sqrt":
            return self._root()
        if name == "binom":
            return Node("function", ("binom", (self.digit_argument(), self.digit_argument())))
        if name in CONSTANTS:
            return Node("const", (CONSTANTS[name],))
        if name in FUNCTIONS:
            return self._function(name)
        if name in ("lfloor", "lceil"):
            bars, self.bars = self.bars, 0
            inner = self.listing(("r" + name[1:],))
            self.expect("r" + name[1:])
            self.bars = bars
            return Node("function", (name[1:], (inner,)))
        if name in ("langle",):
            inner = self.listing(("rangle",))
            self.expect("rangle")
            return Node("tuple", ("(", ")", inner.args if inner.kind == "list" else (inner,)))
        if name == "begin":
            return self._matrix()
        if name in ACCENTS:
            return Node("sym", (f"{name} {_name(self.argument())}",))
        if name in SILENT:
            return self.argument()
        if name == "emptyset":
            return Node("set", ())
        if name == "mathbb":
            return Node("sym", (f"blackboard {_name(self.argument())}",))
        if name == "usd":
            return Node("unit", (self.factor(), "dollar"))
        if name == "dots":
            raise UnreadableError("an ellipsis")
        if name in LETTERS:
            return self._symbol("\\" + name if name != "l" else "l")
        raise UnreadableError(f"\\{name} is not covered")

    def _root(self) -> Node:
        degree = Node("num", (Fraction(2),))
        if self.take("["):
            degree = self.listing(("]",))
            self.expect("]")
        return Node("root", (degree, self.argument()))

    def _function(self, name: str) -> Node:
        """`\\log_2 8`, `\\sin^2 x`, `\\sin 2x`, `\\max(1, 2)`: the arguments stand in brackets or are a product."""
        base = self.argument() if self.take("_") else None
        power = self.argument() if self.take("^") else None
        if self.value() in ("(", "[", "\\{") or self.value() == "{":
            bracketed = self._bracketed()
            arguments = {"tuple": bracketed.args[-1], "set": bracketed.args}.get(bracketed.kind, (bracketed,))
            if self.value() == "^" and not self._degree_follows():
                self.at += 1
                power = self.argument()
        else:
            node = self.factor()
            while self._starts_factor() and self.value() not in FUNCTIONS and self.value() not in ("(", "["):
                node = product(node, self.factor())
            arguments = (node,)
        if power == Node("neg", (Node("num", (Fraction(1),)),)):
            return Node("function", ("arc" + name, arguments))
        if name == "log" and base is not None:
            arguments = (*arguments, base)
        node = Node("function", (name, arguments))
        return Node("pow", (node, power)) if power is not None else node

    def _matrix(self) -> Node:
        name = self._environment()
        if name not in MATRICES:
            raise UnreadableError(f"environment {name} is not covered")
        if name == "array" and self.value() == "{":
            while self.next().value != "}":
                pass
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while self.value() != "end":
            if self.peek() is None:
                raise UnreadableError("an unclosed matrix")
            if self.take("&"):
                continue
            if self.take("cr"):
                rows, row = [*rows, tuple(row)], []
            elif not self.take("hline"):
                row.append(self.union())
        self.at += 1
        self._environment()
        rows = [cells for cells in [*rows, tuple(row)] if cells]
        if not rows or len({len(cells) for cells in rows}) > 1:
            raise UnreadableError("a matrix with uneven rows")
        return Node("determinant" if name == "vmatrix" else "matrix", tuple(rows))

    def _environment(self) -> str:
        self.expect("{")
        letters = []
        while self.value() != "}":
            letters.append(self.next().value)
        self.at += 1
        return "".join(letters)


def _listed(items: list[Node]) -> Node:
    return items[0] if len(items) == 1 else Node("list", tuple(items))


def product(left: Node, right: Node) -> Node:
    """A product; a factor before a matrix multiplies its entries."""
    if right.kind == "matrix" and left.kind not in ("matrix", "sym", "text"):
        return Node("matrix", tuple(tuple(product(left, cell) for cell in row) for row in right.args))
    return Node("mul", (left, right))


def _name(node: Node) -> str:
    """A node as part of a symbol's name: subscripts are names, not arithmetic."""
    if node.kind in ("num", "decimal"):
        return str(node.args[0])
    parts = [_name(part) if isinstance(part, Node) else str(part) for part in node.args if not isinstance(part, tuple)]
    return "".join(parts) if node.kind in ("sym", "text", "const", "mul") else f"{node.kind}({','.join(parts)})"
