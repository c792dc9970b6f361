"""The published scoring rules, looser than `math_strict`, for comparing with the published table.

Written anew from the behaviour of PromptCoT's `calc_acc.py` (github.com/zhaoxlpku/PromptCoT: Qwen2.5-Math's answer
extraction and `math_equal`, then Minerva's normalisation), faults of judgement included: a percentage equals its
fraction and its hundredfold, numbers agree within 1e-4 of each other, bracket types are ignored, and a completion
without a box is searched for its last number. Left out are the faults of execution: model text is never evaluated
as Python, and instead of sympy's simplifier the bounded evaluator of `math_value` decides, so nothing hangs.
"""

import re
from itertools import chain
from math import isclose

from promptcot_mamba.grading.math.answers import find_boxes
from promptcot_mamba.grading.math.evaluate import Budget
from promptcot_mamba.grading.math.gold import Gold
from promptcot_mamba.grading.math.number_words import SMALL
from promptcot_mamba.grading.math.parse import parse
from promptcot_mamba.grading.math.strict import Verdict
from promptcot_mamba.grading.math.tables import names, words
from promptcot_mamba.grading.math.tokens import UnreadableError, clean
from promptcot_mamba.grading.math.tree import Node, symbols
from promptcot_mamba.grading.math.value import UndecidedError, approximate, same_expression

VERSION = "paper-2"
RELATIVE = 1e-4
MAX_CHARS = 4000
_LAST_NUMBER = re.compile(r"-?\d*\.?\d+")
_UNITS = names(
    """
    degree mph kmph ft mile inch gm pound meter gallon hour minute second day week month year dollar cent km kg cm mm
    acre liter litre square east north west rupee people men women unit point game mi min sec lb rs
    """
)
_UNIT = re.compile(rf"(^|\W)(?:{'|'.join(sorted(_UNITS, key=len, reverse=True))})s?($|\W)")
_NUMBER_WORDS = {name: str(value) for name, value in {**SMALL, "twenty": 20}.items()}


def grade_completion(gold: Gold, completion: str, minerva: bool = True) -> tuple[Verdict, str | None]:
    """The verdict on a whole completion, thought included, and the answer it was read from.

    `minerva`: whether the second comparison is made; the published script makes it for every source but GSM8K.
    """
    answer = extract_published(completion)
    reference = strip_published(gold.answer.split("####")[0]) if minerva else gold.answer
    if equal_published(answer, reference):
        return Verdict(True, "qwen"), answer
    if minerva:
        boxes = find_boxes(completion)
        if boxes and _equal_minerva(boxes[-1][2], gold.answer):
            return Verdict(True, "minerva"), answer
    return Verdict(False, "wrong"), answer or None


def grade_answer(gold: Gold, answer: str) -> Verdict:
    """The verdict on the bare content of a box."""
    if equal_published(strip_published(answer), strip_published(gold.answer)):
        return Verdict(True, "qwen")
    return Verdict(_equal_minerva(answer, gold.answer), "minerva")


def extract_published(completion: str) -> str:
    """What the published script takes for the answer: a box if there is one anywhere, else a phrase, else a number."""
    if "final answer is $" in completion and "$. I hope" in completion:
        answer = completion.partition("final answer is $")[2].partition("$. I hope")[0].strip()
    elif "boxed" in completion:
        answer = _box_content(completion.rpartition("boxed")[2])
    elif "he answer is" in completion:
        answer = completion.rpartition("he answer is")[2].strip()
    else:
        numbers = _LAST_NUMBER.findall(completion.replace(",", "")[-100_000:])
        answer = numbers[-1] if numbers else ""
    answer = re.sub(r"\n\s*", "", answer[:MAX_CHARS]).removeprefix(":").removesuffix(".").removesuffix("/")
    return strip_published(answer)


def _box_content(tail: str) -> str:
    """The braces after `boxed`, or what precedes the next dollar sign; an unclosed box reaches to the end."""
    if not tail.startswith("{"):
        return tail[:MAX_CHARS].partition("$")[0].strip()
    depth = 0
    for place, sign in enumerate(tail[: MAX_CHARS + 2]):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return tail[1:place]
    return tail[1:]


def strip_published(text: str) -> str:
    """The published normalisation of an answer."""
    text = text.strip().replace("\n", "").rstrip(".").replace("\\!", "")[:MAX_CHARS]
    text = re.sub(r"\\begin\{array\}\{[^}]*\}", r"\\begin{pmatrix}", text)
    text = text.replace("\\end{array}", "\\end{pmatrix}").replace("bmatrix", "pmatrix")
    for old, new in (("tfrac", "frac"), ("dfrac", "frac"), ("\\neq", "\\ne"), ("\\leq", "\\le"), ("\\geq", "\\ge")):
        text = text.replace(old, new)
    for old, new in (("\\left", ""), ("\\right", ""), ("\\{", "{"), ("\\}", "}")):
        text = text.replace(old, new)
    text = re.sub(r"\\text\{[^}]*\}$", "", text).strip() or text
    for _ in range(2):
        text = _UNIT.sub(r"\1\2", text) or text
    for old in ("^{\\circ}", "^\\circ", "\\$", "$", "\\(", "\\)"):
        text = text.replace(old, "")
    text = _NUMBER_WORDS.get(text.strip().lower(), text)
    text = re.sub(r"\\text\{([^}]*)\}", r"\1", text)
    for old in ("x=", "y=", "z=", "x\\in", "y\\in", "z\\in", "x\\to", "y\\to", "z\\to", "\\%", "%"):
        text = text.replace(old, "")
    text = text.replace("\\emptyset", "{}").replace("(-\\infty,\\infty)", "\\mathbb{R}")
    text = text.replace(" .", " 0.").replace("{.", "{0.").replace("infinity", "\\infty")
    text = text if "\\infty" in text else text.replace("inf", "\\infty")
    text = re.sub(r"\\mbox\{[^}]*\}", "", text.replace("and", "").replace("\\mathbf", ""))
    text = re.sub(r"(\d)\.0*(?=\D|$)", r"\1", text)
    if text.startswith("."):
        text = f"0{text}"
    label, equals, value = text.partition("=")
    if equals and "=" not in value and len(label) <= 2:
        text = value
    text = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", "")
    return _slash_to_fraction(_brace_fractions(text))


def _brace_fractions(text: str) -> str:
    """`\\frac12` and `\\frac1{72}` with both braces."""
    text = re.sub(r"\\frac([^{}\\])([^{}\\])", r"\\frac{\1}{\2}", text)
    return re.sub(r"\\frac([^{}\\])\{", r"\\frac{\1}{", text)


def _slash_to_fraction(text: str) -> str:
    match = re.fullmatch(r"(-?\d+)/(-?\d+)", text)
    return f"\\frac{{{match[1]}}}{{{match[2]}}}" if match else text


def equal_published(answer: str, reference: str, budget: Budget | None = None) -> bool:
    """Qwen2.5-Math's `math_equal` as the published script calls it: percentages and 1e-4 allowed."""
    budget = budget or Budget()
    if answer.strip().lower() == reference.strip().lower():
        return True
    if reference in ("A", "B", "C", "D", "E") and _last_choice(answer) == reference:
        return True
    a, b = _digits(answer), _digits(reference)
    if a is not None and b is not None:
        return any(isclose(item, a, rel_tol=RELATIVE) for item in (b / 100, b, b * 100))
    answer, reference = answer.strip(), reference.strip()
    if not answer or max(len(answer), len(reference)) > MAX_CHARS:
        return False
    if _without_brackets(answer) == _without_brackets(reference):
        return True
    if _bracketed(answer) and _bracketed(reference):
        parts, others = answer[1:-1].split(","), reference[1:-1].split(",")
        if len(parts) > 1 and len(parts) == len(others):
            return all(equal_published(x, y, budget) for x, y in zip(parts, others, strict=True))
    rows, reference_rows = _matrix_rows(answer), _matrix_rows(reference)
    if rows is not None and reference_rows is not None:
        if [len(row) for row in rows] != [len(row) for row in reference_rows]:
            return False
        cells = zip(chain.from_iterable(rows), chain.from_iterable(reference_rows), strict=True)
        return all(equal_published(x, y, budget) for x, y in cells)
    return _equal_equations(answer, reference, budget) or _equal_symbolic(answer, reference, budget)


def _digits(text: str) -> float | None:
    """A number with commas dropped, or a percentage as its fraction."""
    text = text.replace(",", "").strip()
    percent = text.endswith("%")
    text = text.rstrip("%").rstrip("\\") if percent else text
    if len(text) > 400 or not re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", text):
        return None
    return float(text) / 100 if percent else float(text)


def _last_choice(text: str) -> str:
    found = re.findall(r"\b([A-E])\b", text.upper())
    return found[-1] if found else text.strip(" .:/\n")


def _without_brackets(text: str) -> str:
    return re.sub(r"[{}()\[\]]", "", text).lower()


def _bracketed(text: str) -> bool:
    return len(text) > 2 and text[0] in "([" and text[-1] in ")]"


def _matrix_rows(text: str) -> list[list[str]] | None:
    match = re.fullmatch(r"\\begin\{[pb]matrix\}(.*)\\end\{[pb]matrix\}", text, re.DOTALL)
    if match is None:
        return None
    return [row.strip().split("&") for row in match.group(1).split("\\\\") if row.strip()]


def _equal_equations(answer: str, reference: str, budget: Budget) -> bool:
    """Two equations by the difference of their sides; `x = value` against a value by the value."""
    if answer.count("=") == 1 and reference.count("=") == 1:
        sides = [f"{left} - ({right})" for left, _, right in (answer.partition("="), reference.partition("="))]
        return _equal_symbolic(sides[0], sides[1], budget) or _equal_symbolic(f"-({sides[0]})", sides[1], budget)
    for one, other in ((answer, reference), (reference, answer)):
        label, equals, value = one.partition("=")
        if equals and "=" not in value and "=" not in other and len(label.strip()) <= 2:
            return equal_published(value, other, budget)
    return False


def _equal_symbolic(answer: str, reference: str, budget: Budget) -> bool:
    """Equal trees, equal expressions, or numbers within 1e-4; False where either cannot be read or evaluated."""
    try:
        first, second = (parse(clean(text), tolerant=True) for text in (answer, reference))
        return _equal_trees(first, second, budget)
    except (UnreadableError, UndecidedError, RecursionError):
        return False


def _equal_trees(first: Node, second: Node, budget: Budget) -> bool:
    if first == second:
        return True
    if symbols(first) or symbols(second):
        return same_expression(first, second, budget=budget)
    a, b = approximate(first, budget), approximate(second, budget)
    return a == b or isclose(a, b, rel_tol=RELATIVE)


_MINERVA_DROPPED = words(
    r"""
    square ways integers dollars mph inches ft hours km units points feet minutes digits cents degrees cm gm pounds
    meters meals edges students multiples ^\circ ^{\circ} \; ,\! {,} \dots \ldots
    """
)


def _equal_minerva(answer: str, reference: str) -> bool:
    """Minerva's normalisation (arXiv 2206.14858, appendix D), then one expression minus the other is zero."""
    if len(answer) > MAX_CHARS:
        return False
    try:
        first, second = (parse(clean(_normalize_minerva(text)), tolerant=True) for text in (answer, reference))
        return first == second or same_expression(first, second, budget=Budget())
    except (UnreadableError, UndecidedError, RecursionError):
        return False


def _normalize_minerva(text: str) -> str:
    text = text.rpartition("=")[2]
    for old in ("an ", "a ", "\\$", "\\ ", " "):
        text = text.replace(old, "")
    text = text.replace("mbox", "text").replace(",\\text{and}", ",").replace("\\text{and}", ",")
    for old in _MINERVA_DROPPED:
        text = text.replace(old, "")
    text = re.sub(r"\\(?:text|textbf|overline)\{([^}]*)\}", r"\1", text).replace("$", "")
    return text.replace(",", "") if text.replace(",", "").isdigit() else text
