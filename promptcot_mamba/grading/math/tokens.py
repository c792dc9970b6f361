"""Answer text -> tokens: the typography of LaTeX, Unicode and plain text brought to one small alphabet.

Everything here is a table or a regular expression without nested repetition, so the work grows linearly with the
text. Nothing is evaluated.
"""

import re
import unicodedata
from typing import NamedTuple

from promptcot_mamba.grading.math.tables import (
    PLAIN_WORDS,
    RENAMED,
    SUBSCRIPTS,
    SUPERSCRIPTS,
    TEXT_COMMANDS,
    UNICODE,
)

MAX_CHARS = 4000


class UnreadableError(Exception):
    """The text is not mathematics that this grammar covers; the message says what stopped it."""


class Token(NamedTuple):
    """`kind` is num, sym, cmd, text, word or op; `value` its text (a command without backslash)."""

    kind: str
    value: str


_SPACING = re.compile(
    r"\\(?:quad|qquad|thinspace|medspace|thickspace|enspace|displaystyle|textstyle|scriptstyle|limits|nolimits|mathstrut"
    r"|noindent|hfill|left|right|[bB]ig[glr]?|[bB]igg[lr]|middle|rm|bf|it|tt|sf|sl|em)(?![A-Za-z])\.?"
    r"|\\(?:hspace|vspace|phantom|hphantom|label|tag)\*?\s*\{[^{}]*\}|\\[,;:>]|\\ |~|\\[()\[\]]|\\/"
)
_EQUATION = re.compile(r"\\(?:begin|end)\s*\{(?:equation|align|aligned|gather|gathered|split|math|displaymath)\*?\}")
_GROUPED = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:\{,\}|,\\!|\\!,|\\,|\\ |\\;|\\:|~|(?<=\d) (?=\d))\s*\d{3})+)(?!\d)")
_UNION = re.compile(r"(?<=[)\]}])\s*U\s*(?=[(\[{\\])")
_ROW_GAP = re.compile(r"\\cr\s*\[\s*-?[\d.]+\s*[a-z]{2}\s*\]")
_DECIMAL_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d)")
_DOLLAR = re.compile(r"\\(?:text|math)dollar(?![A-Za-z])")
_SIDE_BY_SIDE = re.compile(r"(?<=\))\s*(?:\\q?quad\s*)+(?=\()")  # pairs set apart: `(1, 2) \\quad (2, 1)`
_SET_COMMA = re.compile(r"(?<=\d)\\(?:text|mathrm|mathpunct|mathord|mathbin)\s*\{,\}(?=\d)")
_ESCAPED_TWICE = re.compile(r"\\\\(?=[A-Za-z{}%$!,;])")  # `\\\\frac`, as JSON text escaped once too often
_NEVER = re.compile(r"(?!)")
_BOLD = re.compile(r"^\s*\*\*(.*)\*\*\s*$", re.DOTALL)  # Markdown in a box
_GLUED = re.compile(r"\\q?quad(?=[A-Za-z])")  # `\\quadx`: a space was lost
_GLUED_OR = re.compile(r"(?<=[\d)}$])(or|and)(?=[A-Z(\d\\$-])")
_CIRCLED = re.compile("([①-⑳])[\\s,;、，；]*")  # statements by number, a list
_SCRIPT_RUN = re.compile(f"[{''.join(SUPERSCRIPTS)}]+|[{''.join(SUBSCRIPTS)}]+")


def clean(text: str) -> str:
    """One answer with its typography removed: no `$`, no spacing or sizing macros, ASCII signs, joined digit groups.

    Raises UnreadableError for a text above MAX_CHARS characters.
    """
    if len(text) > MAX_CHARS:
        raise UnreadableError(f"longer than {MAX_CHARS} characters")
    if not text.isascii():
        text = _CIRCLED.sub(lambda one: f"{unicodedata.normalize('NFKC', one[1])}, ", text)
        text = _SCRIPT_RUN.sub(_plain_script, text)
        text = unicodedata.normalize("NFKC", text.translate(UNICODE)).translate(UNICODE)
    if text[:1] in ("'", '"') and text[-1:] == text[:1]:
        text = text[1:-1]
    text = (_ESCAPED_TWICE if "\\begin" not in text else _NEVER).sub(r"\\", text).replace("\\\\", "\\cr ")
    text = _BOLD.sub(r"\1", text).replace("\\$", " \\usd ").replace("$", " ").replace("\\%", "%").replace("\\&", "&")
    text = _DOLLAR.sub(r" \\usd ", _SIDE_BY_SIDE.sub(", ", text)) if "\\" in text else text
    text = _SET_COMMA.sub("{,}", text) if "{,}" in text else text
    text = _GLUED.sub(" ", _GLUED_OR.sub(r" \1 ", text))
    text = _GROUPED.sub(_join_groups, text)
    text = _DECIMAL_COMMA.sub(".", text)
    text = _EQUATION.sub(" ", text.replace("\\!", ""))
    text = _UNION.sub(r"\\cup ", _ROW_GAP.sub(r"\\cr ", _SPACING.sub(" ", text)))
    return (text if "\\begin" in text else text.replace("&", " ")).strip()


def _plain_script(match: re.Match[str]) -> str:
    run = match.group()
    if run[0] in SUBSCRIPTS:
        return "_{" + "".join(SUBSCRIPTS[sign] for sign in run) + "}"
    return "^{" + "".join(SUPERSCRIPTS[sign] for sign in run) + "}"


def _join_groups(match: re.Match[str]) -> str:
    """`10,\\!080` and `1{,}000` are one number; `0{,}125` has a decimal comma and stays."""
    return match.group() if match.group(1) == "0" else match.group(1) + re.sub(r"\D", "", match.group(2))


_THOUSANDS = re.compile(r"(?<![\d.])(?<!\d,)[1-9]\d{0,2}(?:,\d{3})+(?!\d)(?!,\d)")
_OPENING = re.compile(r"\\\{|[(\[]")
_CLOSING = re.compile(r"\\\}|[)\]]")


def join_thousands(text: str) -> str:
    """Read plain `1,234` as one number, except within brackets, where a comma separates: `(2,251,252)` is a triple."""
    pieces = []
    start = depth = 0
    for match in re.finditer(r"\\[{}]|[()\[\]]|" + _THOUSANDS.pattern, text):
        sign = match.group()
        if _OPENING.fullmatch(sign):
            depth += 1
        elif _CLOSING.fullmatch(sign):
            depth -= 1
        elif depth <= 0:
            pieces += [text[start : match.start()], sign.replace(",", "")]
            start = match.end()
    return "".join(pieces) + text[start:]


_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<num>\d*\.\d+[eE][+-]?\d+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{2,}|E[+-]?\d+)?)"
    r"|\\(?P<cmd>[A-Za-z]+)\*?|(?P<escaped>\\[^A-Za-z])|(?P<word>[A-Za-z]+)|(?P<op>\*\*|<=|>=|!=|==|->|[^\s])",
    re.DOTALL,
)


_SPELLINGS = {"**": "^", "==": "=", "<=": "le", ">=": "ge", "!=": "ne", "->": "to"}


def tokenize(text: str) -> list[Token]:
    """Tokens of a cleaned text. Text macros become one token holding their words.

    Raises UnreadableError for an unclosed text group.
    """
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None  # its last alternative takes any sign
        at = match.end()
        kind, value = match.lastgroup, match.group(match.lastgroup or 0)
        if kind == "cmd" and value in TEXT_COMMANDS:
            content, at = _group(text, at, value)
            tokens += _text_tokens(content)
        elif kind == "cmd" or (kind == "word" and value in PLAIN_WORDS):
            tokens.append(_command(value))
        elif kind == "word":
            tokens.append(Token("word" if len(value) > 1 else "sym", value))
        elif kind == "num":
            tokens.append(Token("num", value))
        elif kind in ("escaped", "op"):
            tokens.append(Token("op", _SPELLINGS.get(value, value)))
    return tokens


def _command(name: str) -> Token:
    name = RENAMED.get(name, name)
    return Token("op" if not name[-1].isalpha() else "cmd", name)


def _group(text: str, at: int, name: str) -> tuple[str, int]:
    """The braced group (or single sign) after a text macro, and where it ends."""
    while at < len(text) and text[at] == " ":
        at += 1
    if at >= len(text) or text[at] != "{":
        return text[at : at + 1], at + 1
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[at + 1 : end], end + 1
    raise UnreadableError(f"unclosed \\{name}")


_LETTERS = re.compile(r"[^\W\d_]+")
_LONE_LETTER = re.compile(r"\(?([^\W\d_])\)?\.?")
_MEASURED = re.compile(r"([-+]?\d[\d.,/]*)\s+([A-Za-z][A-Za-z ]*)")
_LABELLED = re.compile(r"[A-Za-z]\s*=\s*[-+\d][^=A-Za-z]*")  # `\\text{x = 5}`
_CONNECTOR = re.compile(r"\s*,?\s*(and|or)\s*,?\s*", re.IGNORECASE)


def _text_tokens(content: str) -> list[Token]:
    """What stands in a text macro: a connector, one letter or digits as mathematics, else words."""
    content = content.strip()
    if connector := _CONNECTOR.fullmatch(content):
        return [Token("cmd", connector.group(1).lower())]
    if all(word in ("and", "or") for word in _LETTERS.findall(content)):
        return tokenize(content)
    if letter := _LONE_LETTER.fullmatch(content):
        return [Token("sym", letter.group(1))]
    if measured := _MEASURED.fullmatch(content):
        return [*tokenize(measured.group(1)), Token("text", measured.group(2).strip())]
    if content in PLAIN_WORDS and content != "cup":
        return [_command(content)]
    if _LABELLED.fullmatch(content):
        return tokenize(content)
    return [Token("text", " ".join(content.split()))]


class Cursor:
    """A place in a list of tokens."""

    def __init__(self, tokens: list[Token]):
        self.tokens = tokens
        self.at = 0

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
