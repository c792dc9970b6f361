"""Strict equivalence of two final answers: true where a careful reader would call them the same answer.

Text first, then words, then the parsed trees (`math_parse`, `math_compare`, `math_value`). Everything runs within fixed
bounds in the calling thread: no signals, no processes, no global state, and nothing a model wrote is ever executed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from promptcot_mamba.grading.math.compare import same_answer
from promptcot_mamba.grading.math.gold import AnswerRules, Gold
from promptcot_mamba.grading.math.parse import parse
from promptcot_mamba.grading.math.tokens import UnreadableError, clean, join_thousands
from promptcot_mamba.grading.math.tree import Node
from promptcot_mamba.grading.math.value import UndecidedError

VERSION = "strict-2"
MAX_ANSWER_CHARS = 100_000
_WHOLE = re.compile(r"-?\d{1,18}")
_ENDS = " \t\n.,;:"


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
    if a == b:
        return Verdict(True, "text")
    if _WHOLE.fullmatch(a) and _WHOLE.fullmatch(b):
        return Verdict(int(a) == int(b), "value")
    if len(b) > MAX_ANSWER_CHARS:
        return Verdict(False, "too long")
    if _bare(a) == _bare(b):
        return Verdict(True, "text")
    try:
        left, right = clean(a).rstrip(_ENDS), _LEAD.sub("", clean(b)).rstrip(_ENDS)
        words = _words(left)
        if words is not None and words == _words(right, loose=True):
            return Verdict(True, "words")
        golds = read(left, gold.rules)
    except UnreadableError:
        return Verdict(False, "unreadable")
    if _DECIMAL_COMMA.fullmatch(left) and _DECIMAL.fullmatch(right) and left.replace(",", ".") == right:
        return Verdict(True, "value")
    reason = "unreadable"
    for reading in _readings(right):
        try:
            if same_answer(golds, parse(reading), gold.rules, gold.unit):
                return Verdict(True, "value")
            reason = "value"
        except UnreadableError:
            continue
        except (UndecidedError, RecursionError):  # the caller's own stack may leave no room for a deep answer
            reason = "undecided"
    return Verdict(False, reason)


def is_readable(gold: Gold) -> bool:
    """Whether a gold is words or mathematics; any other can only equal its own text."""
    try:
        text = clean(gold.answer.strip()).rstrip(_ENDS)
        return _words(text) is not None or bool(read(text, gold.rules))
    except UnreadableError:
        return False


@lru_cache(maxsize=4096)
def read(text: str, rules: AnswerRules) -> Node:
    """The tree of a cleaned gold: `1,234` is one number unless the benchmark says that the gold lists several."""
    listing = rules.multiple or rules.type in ("tuple", "interval")
    return parse(text if listing else join_thousands(text))


def _readings(text: str) -> list[str]:
    """An answer's readings: `1,234` as one number, as two, and `3,14` as a decimal where that is possible."""
    joined = join_thousands(text)
    decimal = [text.replace(",", ".")] if _DECIMAL_COMMA.fullmatch(text) else []
    return ([joined] if joined == text else [joined, text]) + decimal


_LEAD = re.compile(r"^\s*(?:\\text\s*\{)?\s*(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*[:}\s]\s*\}?", re.IGNORECASE)
_DECIMAL = re.compile(r"-?\d*\.\d+")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_BARE = re.compile(r"\\(?:left|right)(?![A-Za-z])|\\[,;:! ()\[\]]|[\s$]")


def _bare(text: str) -> str:
    """A text without its spacing, sizing and dollar signs."""
    return _BARE.sub("", text).rstrip(".").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


_CHOICE = re.compile(r"[(\[]?([A-J])[)\]]?\.?")
_WORD = re.compile(r"[^\W\d_]+|[+-]?\d+(?:[.:/]\d+)*")
_ARITHMETIC = re.compile(r"[\^_+*=<>|\\{}\[\]]|\d\s*-|-\s*\d")
_MACRO = re.compile(
    r"\\(?:text|mbox|textrm|textbf|textit|mathrm|mathbf|operatorname|bf|textnormal|boldsymbol|emph)(?![A-Za-z])\s*"
)


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
    if loose and (choice := re.match(r"\(([A-J])\)", plain)):
        return (choice.group(1).casefold(),)
    if _ARITHMETIC.search(plain):
        return None
    folded = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", plain.casefold())
    words = tuple(_WORD.findall(folded))
    words = tuple(word for word in words if word not in ("a", "an", "the")) or words
    longest = max((len(word) for word in words if word.isalpha()), default=0)
    return words if longest > (1 if macros or loose else 3) else None
