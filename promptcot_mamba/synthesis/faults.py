"""What is wrong with a problem whatever its judges said: it tells its answer, asks nothing, or talks to who reads it.

Judges are models and can be fooled; these are words. Measured on published problems, which have none of the faults,
the patterns are narrow on purpose: a fault they miss is still the judges' to find.
"""

import re

from promptcot_mamba.synthesis.injections import is_injected

STATED, NOTHING, BARE, INJECTED = "states its answer", "asks nothing", "asks of nothing", "gives instructions"

_VALUE = r"(?:\$|\\\(|\\\[|\\boxed|-?\d|[A-E]\b|\*\*)"
_WORDED = r"(?:(?:the|correct|final|reference|expected)[ \t]+)*"
_SECTION = r"^[ \t]*(?:#{1,6}[ \t]*)?(?:\*\*|-+)?[ \t]*"


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE | re.MULTILINE)


_STATED = _any(
    rf"{_SECTION}{_WORDED}(?:answer|solution|ans)[ \t]*(?:\*\*)?[ \t]*[:=][ \t]*(?:\*\*)?[ \t]*\S",
    rf"[\[(]{_WORDED}(?:(?:answer|solution)[ \t]*(?:[:=]|is)|ans\b\.?[:=]?)[ \t]*{_VALUE}",
    rf"[.?!$)][ \t]+{_WORDED}(?:answer|ans)\b\.?[ \t]*[:=][ \t]*{_VALUE}",
    rf"\b(?:the|its|our)[ \t]+{_WORDED}answer[ \t]+(?:is|equals|turns out to be|will be)[ \t]*:?[ \t]*{_VALUE}",
    r"\\boxed[ \t]*\{[^}]",
    "答案(?:是|为|:|：)",
)
# Of a programming problem the notes on its samples say "the answer is 3", and may.
_STATED_PROGRAM = _any(rf"{_SECTION}(?:reference )?(?:solution|editorial)\b[ \t]*(?:\*\*)?[ \t]*:")
_PROGRAM = re.compile(rf"{_SECTION}input\b.*{_SECTION}output\b", re.IGNORECASE | re.MULTILINE | re.DOTALL)
_BIDS = (
    "find determine compute calculate evaluate prove show solve express simplify give write estimate decide construct "
    "describe explain verify convert sketch draw choose identify derive minimi[sz]e maximi[sz]e implement design "
    "rationali[sz]e expand complete fill arrange classify characteri[sz]e trouve[rz]? "
    "calcule[rz]? détermine[rz]? montre[rz]? bestimmen? berechnen? finde[nt]? zeigen? beweisen? hallar? calculad? "
    "calcular? determinar? encuentr[ae] encontrar demuestra найти найдите докажите вычислите"
)
_ALSO = (  # words that may ask, or name and join
    "how what which who when where print output count state list factor graph select name return report answer enter "
    "obtain order round"
)
_ASKS = _any(
    r"[?？]", rf"\b(?:{'|'.join([*_BIDS.split(), *_ALSO.split()])})\b", "求|证明|計算|计算|确定|多少|几|何|いくつ|구하"
)
# A text's last sentence: a question, or one that bids, from its start or behind a comma.
_REQUEST = re.compile(
    rf"(?:[?？]|(?:[.!?:;,]\s|\n)\W{{0,9}}(?:(?:please|then|now|also|and)\b\W{{0,9}})?(?:{'|'.join(_BIDS.split())})\b"
    r"(?:[^.!?\n]|\.(?=\w)|\n(?!\s*\n))*[.!]?|(?:求|证明|計算|计算|确定)[^。]*。?)\W*\Z",
    re.IGNORECASE,
)
_COUNTED = _any(
    rf"{_SECTION}{_WORDED}(?:answer|solution)[ \t]+\d+[ \t]*(?:\([^()\n]*\)[ \t]*)?(?:\*\*)?[ \t]*(?:[:=]|$)"
)
# "Give the answer as", "in the form:", "reading": what stands below is the form of an answer, if it is no value.
_LEADS_ON = re.compile(
    r"\b(?:as|like|as follows|following|with|reading|saying|exactly|(?:the|this|that|a|following)[ \t]+(?:form|format"
    r"|line|style|template|manner|way))[ \t]*[:,]?\s*\Z",
    re.IGNORECASE,
)
_EMPTY = (
    "what which who when where how is are was the a an of to it its this that these those answer solution problem "
    "question solve find compute determine calculate evaluate give explain why please above below following value "
    "result here in for me x y and or do does did you your can could will would"
)
_EMPTY_WORDS = frozenset(_EMPTY.split())


def find_fault(problem: str) -> str | None:
    """The first fault of a problem: STATED, NOTHING, BARE, INJECTED; None where it has none."""
    text = problem.strip()
    if is_injected(text):
        return INJECTED
    stated = (_STATED_PROGRAM if is_program(text) else _STATED).finditer(text)
    if any(not is_answers_form(text, match) for match in stated) or _is_solved(text):
        return STATED
    if not _ASKS.search(text):
        return NOTHING
    return BARE if is_bare(text) else None


def ends_in_request(text: str) -> bool:
    """Whether the last sentence of a text, which is not its only one unless it is a question, asks for something."""
    return _REQUEST.search(text.rstrip()[-600:]) is not None


def is_answers_form(text: str, label: re.Match[str]) -> bool:
    """Whether the label of an answer begins the form that its problem asks for: the text before it runs on into it, and
    what stands behind it has letters and no number ("Give the answer as / Answer: a/b")."""
    line = text[label.start() :].lstrip().split("\n", 1)[0]
    _, _, value = line.partition(":")
    return (
        re.search(r"\d|\\boxed", value) is None
        and re.search(r"\w", value) is not None
        and _LEADS_ON.search(text[: label.start()][-200:]) is not None
    )


def _is_solved(text: str) -> bool:
    """Whether numbered solutions follow a question; before it they are what it is about ("Solution 1: 0.1 M HCl")."""
    counted = _COUNTED.search(text)
    return counted is not None and bool(_ASKS.search(text[: counted.start()])) and not ends_in_request(text)


def is_program(text: str) -> bool:
    """Whether a statement asks for a program: it has a section on input and then one on output."""
    return _PROGRAM.search(text) is not None


def is_bare(text: str) -> bool:
    """Whether nothing is asked about: no number, no formula, and fewer than three words beyond those of asking."""
    if re.search(r"\d|[$\\=+^√∑∫]", text) or not text.isascii():
        return not re.search(r"\w", text)
    words = {word.lower() for word in re.findall(r"[A-Za-z']+", text)}
    return len(words - _EMPTY_WORDS) < 3
