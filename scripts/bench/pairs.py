"""Bare pairs of a gold and a predicted answer: the smallest thing a grader can be asked."""

import re
from dataclasses import dataclass
from typing import cast, get_args

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math import paper as math_paper
from promptcot_mamba.grading.math import strict as math_strict
from promptcot_mamba.grading.math.answers import Extraction, extract_answer, extract_boxed, find_boxes
from promptcot_mamba.grading.math.gold import AnswerRules, AnswerType, Gold
from promptcot_mamba.grading.math.strict import Verdict
from promptcot_mamba.grading.math.tables import CHANGING, PLAIN_WORDS
from promptcot_mamba.grading.math.units import is_unit_word
from promptcot_mamba.jsonl import Row

GRADERS = ("strict", "paper")
# OlympiadBench's own names bring its rule: decimals within 1e-8.
PUBLISHED_TYPES = ("Numerical", "Expression", "Tuple", "Interval")
OLYMPIAD_TOLERANCE = 1e-8
MODES = ("answer", "text")
MAX_PROSE = 4000
LEAST_WORDS = 3  # of a sentence: fewer may change the number that they stand beside
MAX_HEDGE = 60  # a longer text is a solution, in which "not" and "or" say nothing of its answer
_MORE = re.compile(r"\d|\\(?:ne|pm|mp|not)")
_DENIES = re.compile(r"^\s*\\(?:neq?|not)(?![A-Za-z])")
_BOUNDED = re.compile(r"(?:[<>≤≥≠]|!=|\\(?:ne|le|ge|lt|gt|neq|leq|geq|leqslant|geqslant)(?![A-Za-z]))[\s$\\(]*$")
_WORD = re.compile(r"[^\W\d_]+")
_MACRO = re.compile(r"\\[A-Za-z]+(?:\s*\{[^{}]*\})?")
_NUMERAL = re.compile(r"(?<![\w.,])[-−]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_OPENING = re.compile(r"answer is:?|answer:", re.IGNORECASE)
_CLOSING = re.compile(r"I hope it is correct|<\|")
_SPAN = re.compile(r"\$\$([^$]+)\$\$|(?<!\\)\$((?:[^$\\]|\\.)+)\$|\\\(([^$]+?)\\\)|\\\[([^$]+?)\\\]", re.DOTALL)


@dataclass(frozen=True)
class Pair:
    """A gold under its rules and what was predicted: the content of a box (`answer`) or a completion (`text`)."""

    gold: Gold
    prediction: str
    mode: str = "answer"


def read_pair(row: Row) -> Pair:
    """A pair from its row. Raises InputError, naming the key, for a missing or malformed value."""
    for key in ("gold", "pred"):
        value = row.get(key)
        if key == "pred" and value is None and key in row:
            continue  # a sampler that found no answer
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise InputError(f"{key!r} must be text, found {type(value).__name__}")
    mode = row.get("mode") or "answer"
    if mode not in MODES:
        raise InputError(f"'mode' must be {' or '.join(MODES)}, found {mode!r}")
    kind = cast(AnswerType, str(row.get("answer_type") or "any").lower())
    if kind not in get_args(AnswerType):
        raise InputError(f"unknown 'answer_type' {row['answer_type']!r}; known: {', '.join(get_args(AnswerType))}")
    published = row.get("answer_type") in PUBLISHED_TYPES
    try:
        tolerance = float(row.get("tolerance") or (OLYMPIAD_TOLERANCE if published else 0.0))
    except (TypeError, ValueError):
        raise InputError(f"'tolerance' must be a number, found {row['tolerance']!r}") from None
    rules = AnswerRules(kind, tolerance, bool(row.get("multiple")))
    return Pair(
        Gold(_gold_text(str(row["gold"])), rules, row.get("unit") or None),
        "" if row["pred"] is None else str(row["pred"]),
        mode,
    )


def _gold_text(text: str) -> str:
    """A gold may be published as a solution: then its boxes hold the answer."""
    found = extract_boxed(text)
    return ", ".join(found.listed) if found.answer is not None else answer_in_prose(text) or text


def grade_pair(pair: Pair, grader: str = "strict") -> Verdict:
    """The verdict of one grader on one pair; never raises on any prediction."""
    if grader == "paper":
        if pair.mode == "text":
            return math_paper.grade_completion(pair.gold, pair.prediction)[0]
        return math_paper.grade_answer(pair.gold, _bare(pair.prediction).answer or "")
    found = extract_answer(pair.prediction) if pair.mode == "text" else _bare(pair.prediction)
    if found.answer is None:
        return Verdict(False, found.reason or "no_answer")
    verdict = math_strict.grade(pair.gold, found.answer, found.listed)
    if not verdict.equal and pair.mode == "answer" and (part := answer_in_prose(found.answer)) is not None:
        return math_strict.grade(pair.gold, part)
    return verdict


def _bare(text: str) -> Extraction:
    """The answer a caller hands over: the content of a box, or the box itself.

    A short text that says more beside its box (`\\boxed{42} or 43`) is the answer as it stands.
    """
    found = extract_boxed(text)
    if found.answer is None:
        return Extraction(text, (text,))
    boxes = find_boxes(text)
    outside = text[: boxes[0][0]] + text[boxes[-1][1] :]
    if len(text) < MAX_HEDGE and (_MORE.search(outside) or CHANGING & set(re.findall(r"[a-z']+", outside.lower()))):
        return Extraction(text, (text,))
    return found


def answer_in_prose(text: str) -> str | None:
    """What a sentence gives as its answer: its last formula or numeral, after "answer is" where that is said.

    None for a text that is no sentence, which is then an answer itself, a word or two beside a number included ("5
    thirds", "beyond 0"), and for one that hedges or denies ("7 or something else", "not 7"). Completions are never read
    like this: there only a box counts.
    """
    text = text[-MAX_PROSE:]
    plain = _MACRO.sub(" ", _SPAN.sub(" ", text))
    if len(text) < MAX_HEDGE and (_DENIES.search(text) or CHANGING & set(re.findall(r"[a-z']+", text.lower()))):
        return None
    words = _WORD.findall(plain)
    # Functions, units and connectors stand in answers without making them sentences.
    if len(words) < LEAST_WORDS or all(len(word) <= 2 or word in PLAIN_WORDS or is_unit_word(word) for word in words):
        return None
    tail = _CLOSING.split(_OPENING.split(text)[-1])[0]
    for part in (tail, text):
        spans = [(match.start(), next(group for group in match.groups() if group)) for match in _SPAN.finditer(part)]
        blanked = _SPAN.sub(lambda span: " " * len(span[0]), part)
        numerals = [(match.start(), match.group()) for match in _NUMERAL.finditer(blanked)]
        if spans or numerals:
            start, found = max(spans + numerals)
            return None if _BOUNDED.search(part[:start]) else found
    return None
