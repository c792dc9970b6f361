"""The smallest parts of the grammar: numerals, symbols, brackets, commands with their arguments, matrices."""

from collections.abc import Callable
from fractions import Fraction

from promptcot_mamba.grading.math.tables import (
    ACCENTS,
    CHANGING,
    CURRENCIES,
    FUNCTIONS,
    GUESSES,
    LETTERS,
    MATRICES,
    RELATIONS,
    SILENT,
    names,
    pairs,
)
from promptcot_mamba.grading.math.tokens import Cursor, Token, UnreadableError
from promptcot_mamba.grading.math.tree import Node, name_of, number, product, rebuild

MAX_DEPTH = 30
IMAGINARY = Node("const", ("i",))
UNCOVERED = names("int iint oint lim limsup liminf bigcup bigcap pmod equiv end substack over atop choose")
BASES = pairs("two=2 three=3 four=4 five=5 six=6 seven=7 eight=8 nine=9 ten=10 twelve=12 sixteen=16")  # `1011_{two}`
CONSTANTS = {"pi": "pi", "infty": "inf"}
CLOSERS = {"(": (")", "]"), "[": ("]", ")")}
# Single letters that mathematics writes functions with; before "(" they are applied, not multiplied.
APPLIED = frozenset("fghFGHPQW")


class Atoms(Cursor):
    """The rules below `factor`. `math_parse` adds those above, which these call: listing, union, term, factor."""

    listing: Callable[[tuple[str, ...]], Node]
    union: Callable[[], Node]
    term: Callable[[], Node]
    factor: Callable[[], Node]
    starts_factor: Callable[[], bool]
    degree_follows: Callable[[], bool]

    def __init__(self, tokens: list[Token], tolerant: bool = False):
        super().__init__(tokens)
        self.tolerant = tolerant
        self.depth = 0
        self.bars = 0
        self.colons = True  # whether ":" is a ratio; in a set it may begin the condition

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
        parts: list[str] = []
        depth = 1
        while True:
            value = self.next().value
            depth += (value == "{") - (value == "}")
            if depth == 0:
                name = "".join(parts)
                return BASES.get(name.lower(), name.removeprefix("(").removesuffix(")"))
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
        node = self.listing(("}", "choose", "over"))
        if sign := self.take("choose", "over"):
            other = self.listing(("}",))
            node = Node("div", (node, other)) if sign == "over" else Node("function", ("binom", (node, other)))
        self.bars = bars
        self.expect("}")
        if node.kind == "list":
            return Node("set", node.args)
        return node

    def atom(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        node = self._atom()
        self.depth -= 1
        return node

    def _atom(self) -> Node:
        token = self.next()
        if token.kind == "num":
            return self._repeating(token.value) or number(token.value)
        if token.kind == "sym":
            return self._symbol(token.value)
        if token.kind == "text":
            return Node("text", (token.value,))
        if token.kind == "word":
            if token.value.lower() in CHANGING | GUESSES and not token.value.isupper():  # `NO` is a segment
                raise UnreadableError(f"{token.value!r} is no product")
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
        if token is None or token.kind != "num" or not token.value.isdigit() or len(token.value) > 50:
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
            inner = Node("function", ("abs", (self.union(),)))
            self.expect(sign)
        else:
            raise UnreadableError(f"unexpected {sign}")
        self.bars = bars
        return inner

    def _set(self) -> Node:
        """`\\{1, 2\\}`, or `\\{x \\mid x > 1\\}`, which is its condition."""
        if self.take("\\}"):
            return Node("set", ())
        self.colons, self.bars = False, 1  # a bar after an item begins the condition
        inner = self.listing(("\\}", "mid", ":", "|"))
        self.colons, self.bars = True, 0
        if self.take("mid", ":", "|"):
            condition = self.listing(("\\}",))
            self.expect("\\}")
            domain = inner.args[1][1] if inner.kind == "relation" and inner.args[0] == ("in",) else None
            known = domain is None or domain in (Node("sym", ("blackboard R",)), Node("sym", ("\\reals",)))
            return condition if known else Node("cap", (condition, domain))
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
            return Node("sym", (f"{name} {name_of(self.argument())}",))
        if name in SILENT:
            return self.argument() if self.starts_factor() else Node("sym", ("\\" + name,))
        if name == "emptyset":
            return Node("set", ())
        if name == "mathbb":
            return Node("sym", (f"blackboard {name_of(self.argument())}",))
        if name in CURRENCIES:
            return Node("unit", (self.factor(), name))
        if name == "dots":
            raise UnreadableError("an ellipsis")
        if name in LETTERS:
            return self._symbol("\\" + name if name != "l" else "l")
        if name in ("sum", "prod"):
            return self._series(name)
        if name in UNCOVERED or (name in RELATIONS and not self.tolerant):
            raise UnreadableError(f"\\{name} is not covered")
        return Node("sym", ("\\" + name,))  # a macro of the model's own: a name, equal only to itself

    def _series(self, name: str) -> Node:
        """`\\sum_{k=0}^{n} term`: the letter, both ends and the term."""
        self.expect("_")
        start = self.argument()
        self.expect("^")
        end = self.argument()
        counts = start.kind == "relation" and start.args[0] == ("=",)
        if not counts or (start.args[1][0].kind != "sym" and start.args[1][0] != IMAGINARY):
            raise UnreadableError("a sum without its letter")
        letter, first = start.args[1]
        term = self.term()
        if letter == IMAGINARY:  # `\\sum_{i=1}^{n} i^2`
            term = rebuild(term, lambda part: Node("sym", ("i",)) if part == IMAGINARY else None)
        return Node(name, (letter.args[0], first, end, term))

    def _root(self) -> Node:
        degree = Node("num", (Fraction(2),))
        if self.take("["):
            degree = self.listing(("]",))
            self.expect("]")
        return Node("root", (degree, self.argument()))

    def _function(self, name: str) -> Node:
        """`\\log_2 8`, `\\sin^2 x`, `\\sin 2x`, `\\max(1, 2)`: the arguments stand in brackets or are a product."""
        if self.peek() is None or self.value() in RELATIONS:
            return Node("sym", (name,))  # `\\gcd = 7`: a label
        base = self.argument() if self.take("_") else None
        power = self.argument() if self.take("^") else None
        if self.value() in ("(", "[", "\\{") or self.value() == "{":
            bracketed = self._bracketed()
            arguments: tuple[Node, ...] = (bracketed,)
            if bracketed.kind in ("tuple", "set"):
                arguments = bracketed.args[2] if bracketed.kind == "tuple" else bracketed.args
            if self.value() == "^" and not self.degree_follows():
                self.at += 1
                power = self.argument()
        else:
            factors = [self.factor()]
            while self.starts_factor() and self.value() not in FUNCTIONS and self.value() not in ("(", "["):
                factors.append(self.factor())
            arguments = (product(factors),)
        if power == Node("neg", (Node("num", (Fraction(1),)),)):
            return Node("function", ("arc" + name, arguments))
        if name == "log" and base is not None:
            arguments = (*arguments, base)
        node = Node("function", (name, arguments))
        if name == "cis":  # `2 \\operatorname{cis} 30^\\circ`
            parts = (Node("function", (part, arguments)) for part in ("cos", "sin"))
            node = Node("add", (next(parts), product([IMAGINARY, next(parts)])))
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
