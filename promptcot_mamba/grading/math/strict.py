"""Strict equivalence of two final answers: true where a careful reader would call them the same answer.

Text first, then words, then the parsed trees (`math_parse`, `math_compare`, `math_value`). Everything runs within fixed
bounds in the calling thread: no signals, no processes, no global state, and nothing a model wrote is ever executed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from promptcot_mamba.grading.math.compare import same_answer
from promptcot_mamba.grading.math.gold import AnswerRules, Gold
from promptcot_mamba.grading.math.layout import drop_parts
from promptcot_mamba.grading.math.parse import parse
from promptcot_mamba.grading.math.phrases import (
    OTHER_CHOICE,
    read_phrases,
    set_choice_apart,
    split_choice,
    split_qualifier,
)
from promptcot_mamba.grading.math.spelling import BARE_UNIT, name_bare_unit, spell
from promptcot_mamba.grading.math.tables import TEXT, names
from promptcot_mamba.grading.math.tokens import UnreadableError, clean, join_thousands
from promptcot_mamba.grading.math.tree import Node
from promptcot_mamba.grading.math.value import UndecidedError

VERSION = "strict-9"
MAX_ANSWER_CHARS = 100_000
_WHOLE = re.compile(r"-?\d{1,18}")
_ENDS = " \t\n.,;:"


def _stripped(text: str) -> str:
    """A text without the punctuation after it; an ellipsis stays, `12...` is not 12."""
    bare = text.rstrip(_ENDS)
    return text if ".." in text[len(bare) :] else bare


@dataclass(frozen=True)
class Verdict:
    """Whether two answers are equal, and what decided: text, words, value, unreadable, undecided."""

    equal: bool
    reason: str


def grade(gold: Gold, answer: str, listed: tuple[str, ...] = ()) -> Verdict:
    """Compare an extracted answer with a gold.

    `listed` are the contents of all boxes in the final row: where the gold lists several answers and the last box
    holds one, the row is the answer. Never raises on any answer.
    """
    verdict = _compare(gold, answer)
    if not verdict.equal and len(listed) > 1:
        joined = _compare(gold, ", ".join(listed))
        if joined.equal:
            return joined
    return verdict


def _compare(gold: Gold, answer: str) -> Verdict:
    a, b = gold.answer.strip(), answer.strip()
    if not has_content(b):
        return Verdict(False, "empty")
    if a == b:
        return Verdict(True, "text")
    if _WHOLE.fullmatch(a) and _WHOLE.fullmatch(b):
        return Verdict(int(a) == int(b), "value")
    if len(b) > MAX_ANSWER_CHARS:
        return Verdict(False, "too long")
    if _bare(a) == _bare(b):
        return Verdict(True, "text")
    try:
        left, right = _stripped(clean(set_choice_apart(a))), _stripped(_without_lead(clean(set_choice_apart(b))))
        if left == right:
            return Verdict(True, "text")
        words = _words(left)
        if words is not None and words == _words(right, loose=True):
            return Verdict(True, "words")
        if words is not None and _opening_verdict(right) == words:
            return Verdict(True, "words")
        if (script := _script(left)) is not None and script == _script(right):
            return Verdict(True, "text")
        if not gold.rules.multiple and _same_decimal(left, right):
            return Verdict(True, "value")
    except UnreadableError:
        return Verdict(False, "unreadable")
    try:
        return _compare_cleaned(gold, left, right)
    except UnreadableError:  # the gold: it can only equal its own text, however that is spaced
        same = _spaced_alike(left) == _spaced_alike(right)
        return Verdict(True, "text") if same else Verdict(False, "unreadable")


def _spaced_alike(text: str) -> str:
    return _bare(_SUBSCRIPT.sub(r"\1\2", " ".join(text.split())))


_SUBSCRIPT = re.compile(r"([_^])\s*\{\s*(\w)\s*\}")
_SET_APART = re.compile(r"[_^]\s*\{")  # more than one sign set high or low
_NAME = re.compile(r"[A-Za-z]{2}|[A-Z]_?\d")


def _script(text: str) -> str | None:
    """A name or formula as it is set: `\\text{Bob wins}` as `Bob`, `\\mathrm{CO_2}` as `CO_2`; else None."""
    plain = _SUBSCRIPT.sub(r"\1\2", _MACRO.sub("", text))
    if "\\" in plain or _SET_APART.search(plain):
        return None
    plain = _stripped(" ".join(plain.replace("{", "").replace("}", "").split()))
    plain = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", _WINS.sub("", plain) if " w" in plain else plain)
    return plain if _NAME.search(plain) else None


def _same_decimal(left: str, right: str) -> bool:
    """`3,14` for `3.14`, digit by digit; three places after a comma group thousands unless the whole part is 0."""
    comma, point = sorted((left, right), key=lambda text: "." in text)
    if not (_DECIMAL_COMMA.fullmatch(comma) and _DECIMAL.fullmatch(point)):
        return False
    whole, _, places = comma.partition(",")
    return comma.replace(",", ".") == point and (len(places) != 3 or whole.lstrip("-") == "0")


def _compare_cleaned(gold: Gold, left: str, right: str) -> Verdict:
    """The verdict on texts without typography: choices by their letters, then what is said of the letters, then trees.

    Raises UnreadableError where the gold cannot be read.
    """
    in_parts = ")" in left and drop_parts(left) != left
    (choice, left), (chosen, right) = split_choice(read_phrases(spell(left))), split_choice(read_phrases(spell(right)))
    if _LETTERS.fullmatch(left) and (letters := _LETTERS.fullmatch(_plain_letters(right))):
        return Verdict(set(re.findall("[A-J]", left)) == set(re.findall("[A-J]", letters.group())), "words")
    if choice is not None and chosen is not None:
        if choice != chosen or not (left and right):
            return Verdict(choice == chosen, "words")
    elif choice is not None and (letter := _CHOICE.fullmatch(_plain(right))):
        return Verdict(letter.group(1) == choice, "words")
    elif chosen is not None and not right:
        return Verdict(_plain(left) == chosen, "words")
    elif chosen is not None and _CHOICE.fullmatch(_plain(left)):
        return Verdict(_plain(left).strip("().[]") == chosen, "words")
    golds_said, said = split_qualifier(left), split_qualifier(right)
    golds = read(golds_said.answer, gold.rules)
    if golds.kind == "list" and in_parts:  # `(a) 3, (b) 7`: which is which counts
        golds = Node("tuple", ("(", ")", golds.args))
    domains = (golds_said.domain, said.domain)
    reason = "unreadable"
    for reading in _readings(said.answer, golds.kind == "unit"):
        try:
            if same_answer(golds, parse(reading), gold.rules, gold.unit, domains):
                return Verdict(True, "value")
            reason = "value"
        except UnreadableError:
            continue
        except (UndecidedError, RecursionError):  # the caller's own stack may leave no room for a deep answer
            reason = "undecided"
    return Verdict(False, reason)


def has_content(text: str) -> bool:
    """Whether a text says anything: a letter, digit or sign beyond connectors, punctuation, spacing and brackets."""
    if text and text[0].isdigit():
        return True
    if _EMPTY_SET.search(text):
        return True
    rest = _NO_CONTENT.sub(" ", text[:MAX_ANSWER_CHARS])
    return any(sign.isalnum() or sign in "∞∅°%√" for sign in rest)


def is_readable(gold: Gold) -> bool:
    """Whether a gold is words or mathematics; any other can only equal its own text."""
    try:
        text = _stripped(clean(gold.answer.strip()))
        if _words(text) is not None:
            return True
        choice, text = split_choice(read_phrases(spell(text)))
        return choice is not None or bool(read(split_qualifier(text).answer, gold.rules))
    except UnreadableError:
        return False


@lru_cache(maxsize=4096)
def read(text: str, rules: AnswerRules) -> Node:
    """The tree of a cleaned gold: `1,234` is one number unless the benchmark says that the gold lists several."""
    listing = rules.multiple or rules.type in ("tuple", "interval")
    return parse(text if listing else join_thousands(text))


def _readings(text: str, united: bool) -> Iterator[str]:
    """An answer's readings: `1,234` as one number and as two, `5 m` as a product and as metres.

    `united`: the gold has a unit, so that `5m` may be metres too.
    """
    joined = join_thousands(text)
    yield joined
    if joined != text:
        yield text
    named = BARE_UNIT.sub(name_bare_unit, _GLUED_UNIT.sub(r"\1 ", joined) if united else joined)
    if named != joined:
        yield named
    if bare := _MAPPED.match(joined):
        yield joined[bare.end() :]
    if limit := _LIMIT.match(joined):
        yield joined[limit.end() :]
    if power := _NEGATIVE_POWER.fullmatch(joined):
        yield f"{power[1]}\\cdot 10^{{{power[2]}}}"
    if short := _SHORT.fullmatch(joined):
        yield f"{short[1]} \\cdot {_SHORTS[short[2].lower()]} {short[3] or ''}"
    if hour := _FULL_HOUR.fullmatch(joined):
        yield f"{hour[1]} \\text{{ {hour[2]}}}"


_GLUED_UNIT = re.compile(r"(\d)(?=[A-Za-z](?:\^\{?[23]\}?)?(?:/[a-z]+)?\s*$)")
# The value that is claimed of what is not computed: `\\lim_{n \\to \\infty} a_n = 2`, `\\int_0^1 x^2\\,dx = \\frac13`.
_LIMIT = re.compile(
    r"\s*\\(?:lim(?:sup|inf)?|i*int|oint|(?:sum|prod)(?=\s*_\s*\{[^{}]*\}\s*\^\s*\{?\s*\\infty))(?![A-Za-z])"
    r"(?:[^{}=<>]|\{(?:[^{}]|\{[^{}]*\})*\})*=(?=[^=<>]+$)"
)
_SHORT = re.compile(
    r"((?:\s*\\usd)?\s*\d+(?:\.\d+)?)\s*(?:\\text\s*\{\s*)?([kK]|M)(?:\s*\})?(?:\s+(\\text\s*\{[a-z ]+\}))?"
)
_SHORTS = {"k": 10**3, "m": 10**6}  # `\\$70k`, `5M`
_NEGATIVE_POWER = re.compile(  # `4e-7`, which may be a difference too
    r"\s*(-?\d+(?:\.\d+)?)\s*(?:[eE]|\\(?:text|mathrm)\s*\{\s*[eE]\s*\})\s*\{?\s*(-\d{1,3})\s*\}?\s*"
)
_FULL_HOUR = re.compile(r"\s*(\d{1,2}):00\s*(?:\\text\s*\{)?\s*([ap]m)\s*\}?\s*")  # `5:00 pm` for 5
_MAPPED = re.compile(r"(?:[A-Za-z]\s*:\s*)?[a-z]\s*\\mapsto(?![A-Za-z])\s*")
_EMPTY_SET = re.compile(r"\\\{[\s,\\]*\\\}|\\(?:emptyset|varnothing|infty)(?![A-Za-z])")
_NO_CONTENT = re.compile(
    r"\\(?:text[a-z]*|mbox|hbox|math[a-z]+|operatorname|displaystyle|quad|qquad|left|right|[bB]igg?[lr]?|boxed|fbox|frac|dfrac|tfrac"
    r"|sqrt|cdot|times|div|pm|mp|ldots|dots|cdots|land|lor|wedge|vee|and|or|color|hspace|vspace|phantom|begin|end|hline|cup|cap)"
    r"(?![A-Za-z])|\b(?:and|or|answer|final)\b",
    re.IGNORECASE,
)


_LEAD = re.compile(r"^\s*(?:\\text\s*\{)?\s*(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*[:}\s]\s*\}?", re.IGNORECASE)


def _without_lead(text: str) -> str:
    """`\\text{Answer: C}` as `C`; a brace that the opening words left open is closed no more."""
    rest, depth = _LEAD.sub("", text), 0
    for place, sign in enumerate(rest):
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            return rest[:place] + rest[place + 1 :]
    return rest


_DECIMAL = re.compile(r"-?\d+\.\d+")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_BARE = re.compile(r"\\(?:left|right)(?![A-Za-z])|\\[()\[\]]|\\!|\$")
_SPACES = re.compile(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])")


def _bare(text: str) -> str:
    """A text without its spacing, sizing and dollar signs; what a space keeps apart stays apart (`4 2`)."""
    plain = _SPACES.sub("", _SPACING.sub(" ", _BARE.sub("", text)))
    return _stripped(plain).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


_SPACING = re.compile(r"\\[,;: ]")


def _plain(text: str) -> str:
    """A short text without macros, brackets of macros and spaces."""
    return "".join(_MACRO.sub("", text).replace("{", " ").replace("}", " ").split()).strip(_ENDS)


_VERDICT = re.compile(r"(yes|no|true|false)\s*[,.;:]\s*([A-Za-z].*)", re.IGNORECASE | re.DOTALL)
_OTHER_VERDICT = re.compile(r"\b(?:yes|no|true|false|or|and|maybe|but|if|wrong|incorrect)\b", re.IGNORECASE)


def _opening_verdict(text: str) -> tuple[str, ...] | None:
    """`Yes, because x > 0` says yes; a reason that names another verdict leaves none."""
    match = _VERDICT.match(_MACRO.sub("", text).replace("{", " ").replace("}", " ").strip())
    return (match.group(1).lower(),) if match and not _OTHER_VERDICT.search(match.group(2)) else None


_CHOICE = re.compile(r"[(\[]?([A-J])[)\]]?\.?")
_LETTERS = re.compile(r"\(?[A-J]\)?(?:\s*(?:,|;|\band\b|,\s*and\b)\s*\(?[A-J]\)?)+")  # `A, C`: several choices


def _plain_letters(text: str) -> str:
    """`\\text{A and C}`, `A{,}C` as `A and C`, `A,C`."""
    return " ".join(_MACRO.sub("", text).replace("{", "").replace("}", "").replace("\\and", "and").split()).strip(_ENDS)


_JUDGED = re.compile(
    r"\s*(?:is|isn't|or|and|but|if|unless|maybe)\b|.*\b(?:or \d|wrong\b|incorrect\b)", re.IGNORECASE | re.DOTALL
)
_PRIMES = re.compile(r"\bprime (?:numbers?|integers?)\b(?: [a-z]$)?|\bprimes [a-z]$")
_WINS = re.compile(
    r"(?<!true)(?<!false)(?<!yes)(?<!no)\s+(?:always\s+|will\s+)?(?:wins?|has (?:a|the) winning strategy)"
    r"(?: the game)?$"
)
_PARITY = names("odd even")
_SHORT_WORDS = names("yes no odd tie red")  # read as words where they stand alone; any other so short may be a product
_NUMBERED = names("all every any for n k integer integers number numbers value values is of positive natural")
_WORD = re.compile(r"[^\W\d_]+|[+-]?\d+(?:[.:/]\d+)*")
_ARITHMETIC = re.compile(r"[\^_+*=<>|\\{}\[\]]|\d\s*-|-\s*\d")
_MACRO = re.compile(rf"{TEXT}|\\(?:bf|boldsymbol)(?![A-Za-z])\s*")


def _words(text: str, loose: bool = False) -> tuple[str, ...] | None:
    """The words of an answer that consists of words, None for one that is mathematics.

    A choice letter is itself with or without brackets: `\\text{(C)}`, `(C)`, `C`. With `loose`, an answer is read as
    words whenever it holds any, and a choice may be followed by its text (`(C) 12`).
    """
    macros = bool(_MACRO.search(text))
    plain = _MACRO.sub("", text).replace("{", " ").replace("}", " ").replace("~", " ") if macros else text
    plain = " ".join(plain.split()).strip(_ENDS)
    choice = _CHOICE.fullmatch(plain.replace(" ", ""))
    if choice and (macros or loose or plain.startswith("(")):
        return (choice.group(1).casefold(),)
    if (
        loose
        and (choice := re.match(r"\(([A-J])\)", plain))
        and not (OTHER_CHOICE.search(plain[choice.end() :]) or _JUDGED.match(plain[choice.end() :]))
    ):
        return (choice.group(1).casefold(),)
    if _ARITHMETIC.search(plain):
        return None
    cased = plain if plain[:1].isdigit() else plain.casefold()  # `5 mW` is not `5 MW`
    folded = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", cased)
    words = tuple(_WORD.findall(_PRIMES.sub("primes", _WINS.sub("", folded))))
    words = tuple(word for word in words if word not in ("a", "an", "the", "on")) or words
    if _PARITY & set(words):
        words = tuple(word for word in words if word not in _NUMBERED)
    longest = max((len(word) for word in words if word.isalpha()), default=0)
    return words if longest > (1 if macros or loose else 3) or cased in _SHORT_WORDS else None
