"""Pairs to audit a grader with: a gold's format variants, which are the same answer, and its negatives, which are not.

Both are made by text rules from the gold alone, so that they say nothing about how any grader works.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

_NUMERAL = re.compile(r"(?<![_\d.A-Za-z])(?<!_\{)(?<!sqrt\[)\d+(?![\d,]*[A-Za-z])")
_WHOLE = re.compile(r"-?\d+")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
_UNIT = re.compile(r"\\(?:text|mbox)\s*\{\s*(?:degrees|inches|cents|cm)\s*\}(?:\^2)?$")


def bare(gold: str) -> str:
    """The gold without dollar signs around it or a full stop after it."""
    return gold.strip().rstrip(".").replace("$", "") if "\\$" not in gold else gold.strip()


def top_level_items(text: str) -> list[str]:
    """The parts between commas outside all brackets."""
    items, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            items.append(text[start:place].strip())
            start = place + 1
    return [*items, text[start:].strip()]


def variants(gold: str, multiple: bool = False) -> Iterator[tuple[str, str]]:
    """`(kind, text)` of ways to write the same answer."""
    text = bare(gold)
    yield "identity", gold
    yield "dollars", f"${text}$"
    yield "parens", f"\\( {text} \\)"
    yield "full stop", f"{text}."
    yield "spaces", f"  {text}  "
    yield "boxed", f"\\boxed{{{text}}}"
    yield "sized", re.sub(r"(?<!\\left)(?<!\\)\(", r"\\left(", re.sub(r"(?<!\\right)(?<!\\)\)", r"\\right)", text))
    if not re.search(r"\\(?:text|mbox)", text):
        yield "display", f"\\displaystyle {text}"
        yield "thin spaces", re.sub(r"(?<!\\left)(?<!\\right)([+=]|,(?!\\!|\d{3}))", r"\\,\1\\,", text)
        yield "no spaces", re.sub(r"(?<![A-Za-z]) | (?![A-Za-z])", "", text)
    if "\\frac" in text:
        yield "dfrac", text.replace("\\frac", "\\dfrac")
        yield "tfrac", text.replace("\\frac", "\\tfrac")
    if "-" in text:
        yield "unicode minus", text.replace("-", "−")
    if "\\pi" in text:
        yield "unicode pi", text.replace("\\pi", "π")
    if re.search(r"\\sqrt\{\d\}", text):
        yield "bare root", re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", text)
        yield "unicode root", re.sub(r"\\sqrt\{(\d)\}", r"√\1", text)
    yield from _number_variants(text)
    yield from _shape_variants(text, multiple)


def _number_variants(text: str) -> Iterator[tuple[str, str]]:
    plain = text.replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+", text) else text
    if _WHOLE.fullmatch(plain) and plain.lstrip("-") == str(int(plain.lstrip("-"))):
        value = int(plain)
        yield "point zero", f"{plain}.0"
        yield "leading zeros", f"{'-' if value < 0 else ''}0{abs(value)}"
        yield "labelled", f"x = {plain}"
        yield "text", f"\\text{{{plain}}}"
        yield "fraction over one", f"\\frac{{{2 * value}}}{{2}}"
        if abs(value) >= 1000:
            for kind, mark in (("comma", ","), ("braced comma", "{,}"), ("thin comma", ",\\!"), ("thin space", "\\,")):
                yield f"thousands {kind}", f"{value:,}".replace(",", mark)
        yield "power of ten", f"{value / 10 ** (len(str(abs(value))) - 1)!r} \\times 10^{{{len(str(abs(value))) - 1}}}"
    if (match := _FRACTION.fullmatch(text)) is not None:
        sign, upper, lower = match.groups()
        fraction = Fraction(int(upper), int(lower)) * (-1 if sign else 1)
        yield "slash", f"{sign}{upper}/{lower}"
        yield "doubled", f"{sign}\\frac{{{2 * int(upper)}}}{{{2 * int(lower)}}}"
        if sign:
            yield "sign inside", f"\\frac{{-{upper}}}{{{lower}}}"
        if len(upper) == len(lower) == 1:
            yield "braceless", f"{sign}\\frac{upper}{lower}"
        if (
            re.fullmatch(r"[25]*", "".join(str(prime) for prime in _primes(fraction.denominator)))
            and fraction.denominator < 2000
        ):
            yield "decimal", str(float(fraction))
    if re.fullmatch(r"-?\d*\.\d+", text):
        yield "trailing zero", f"{text}0"
        fraction = Fraction(text)
        yield "as fraction", f"\\frac{{{fraction.numerator}}}{{{fraction.denominator}}}"
        yield "other zero", text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text
    if "^\\circ" in text and "(" not in text:
        yield "degree sign", text.replace("^\\circ", "°")
        yield "braced degree", text.replace("^\\circ", "^{\\circ}")
        yield "no degree", text.replace("^\\circ", "")
    if "^{\\circ}" in text and "(" not in text:
        yield "degree sign", text.replace("^{\\circ}", "°")
        yield "no degree", text.replace("^{\\circ}", "")
    if text.startswith("\\$"):
        yield "no currency", text[2:]
        yield "dollars word", f"{text[2:]} \\text{{ dollars}}"
    if text.endswith("%"):
        yield "no percent", text.rstrip("%").rstrip("\\").strip()
        yield "escaped percent", text.rstrip("%").rstrip("\\") + "\\%"
    if _UNIT.search(text):
        yield "no unit", _UNIT.sub("", text)


def _primes(value: int) -> list[int]:
    found, prime = [], 2
    while value > 1:
        while value % prime == 0:
            found.append(prime)
            value //= prime
        prime += 1
    return found


def _shape_variants(text: str, multiple: bool) -> Iterator[tuple[str, str]]:
    items = top_level_items(text)
    listing = len(items) > 1 and (multiple or not re.fullmatch(r"[\d,\\!$ ]+", text)) and "where" not in text
    if listing:
        yield "reversed list", ", ".join(reversed(items))
        yield "and", ", ".join(items[:-1]) + " \\text{ and } " + items[-1]
        if not any("=" in item for item in items):
            yield "set", "\\{" + ", ".join(items) + "\\}"
    if match := re.fullmatch(r"\\text\{\(?(\w+)\)?\}", text):
        yield "no text macro", match.group(1)
        yield "bold", f"\\textbf{{{match.group(1)}}}"
    if "pmatrix" in text:
        yield "square brackets", text.replace("pmatrix", "bmatrix")
    if " \\pm " in text and not listing and "{" not in text.split("\\pm")[0]:
        yield "both signs", text.replace("\\pm", "+") + ", " + text.replace("\\pm", "-")
    if match := re.fullmatch(r"([a-zA-Z](?:\(\w\))?)\s*=\s*([^=,]+)", text):
        yield "no label", match.group(2)
    if match := re.fullmatch(r"x \\in (.+)", text):
        yield "no label", match.group(1)
    if re.fullmatch(r"[\[(][^,()]+,[^,()]+[\])]", text) and (text[0] == "[" or text[-1] == "]"):
        yield "member", f"x \\in {text}"
    if "\\cup" in text and "\\{" not in text:
        yield "union swapped", " \\cup ".join(reversed([part.strip() for part in text.split("\\cup")]))


def negatives(gold: str, multiple: bool = False) -> Iterator[tuple[str, str]]:
    """`(kind, text)` of answers that differ: by one, by a hundred, in sign, order, brackets, length or an entry."""
    text = bare(gold)
    items = top_level_items(text)
    listing = len(items) > 1 and multiple
    if _WHOLE.fullmatch(text):
        value = int(text)
        for kind, other in (("plus one", value + 1), ("minus one", value - 1), ("opposite", -value)):
            if other != value:
                yield kind, str(other)
        if value:
            yield "times hundred", str(value * 100)
            yield "over hundred", str(Fraction(value, 100))
            yield "percent", f"{value / 100}\\%"
            yield "wrong digit group", f"{value}{value}"
            yield "reciprocal", f"\\frac{{1}}{{{value}}}" if abs(value) > 1 else str(value + 7)
    else:
        for place, entry in enumerate(_NUMERAL.finditer(text)):
            if place < 6 and not re.search(r"\{pmatrix|array\}\{$", text[: entry.start()][-7:]):
                changed = str(int(entry.group()) + 1).zfill(len(entry.group()))
                yield "entry plus one", text[: entry.start()] + changed + text[entry.end() :]
        if not re.search(r"[=,<>]|\\(?:text|pm|in|cup|le|ge|begin)|[A-Za-z]\)$", text) and re.search(
            r"\d|\\pi|[a-z]", text
        ):
            yield "opposite", f"-({text})"
            yield "times hundred", f"100({text})" if not re.match(r"[.\d]", text) else f"100 \\cdot {text}"
    if match := re.fullmatch(r"(\\left)?([\[(])(.*?)(\\right)?([\])])", text):
        yield from _tuple_negatives(match)
    if listing:
        yield "shortened", ", ".join(items[:-1])
        yield "shortened front", ", ".join(items[1:])
        yield "one more", ", ".join([*items, "987654"])
    if "\\cup" in text:
        yield "shortened union", text.split("\\cup")[0].strip()
    if "\\text" in text and re.fullmatch(r"\\text\{\(?(\w+)\)?\}", text):
        yield "other word", "\\text{(D)}" if "(D)" not in text and len(text) < 12 else "\\text{Nobody}"
    yield "empty", "\\text{no answer}"


def _tuple_negatives(match: re.Match[str]) -> Iterator[tuple[str, str]]:
    left, opening, inside, right, closing = match.groups()
    items = top_level_items(inside)
    if len(items) < 2 or inside.count("(") != inside.count(")") or _is_many(inside):
        return
    left, right = left or "", right or ""
    if items[0] != items[-1]:
        swapped = ", ".join([items[-1], *items[1:-1], items[0]])
        yield "swapped", f"{left}{opening}{swapped}{right}{closing}"
    if len(items) == 2:
        flips = {"(": "[", "[": "(", ")": "]", "]": ")"}
        yield "flipped bracket", f"{left}{flips[opening]}{inside}{right}{closing}"
        yield "flipped bracket", f"{left}{opening}{inside}{right}{flips[closing]}"
        yield "both flipped", f"{left}{flips[opening]}{inside}{right}{flips[closing]}"
    yield "shortened", f"{left}{opening}{', '.join(items[:-1])}{right}{closing}"
    yield "tuple as set", "\\{" + inside + "\\}"


def _is_many(inside: str) -> bool:
    """Whether the brackets at the ends belong to different tuples: `1, 2), (3, 4`."""
    depth = 0
    for sign in inside:
        depth += (sign in "([") - (sign in ")]")
        if depth < 0:
            return True
    return False
