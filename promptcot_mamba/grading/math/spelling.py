"""How answers are typed -> one spelling: colours, ordinals, repeating decimals, congruences, bases, clock times.

Works on text that `tokens.clean` has cleaned. Each rule has a trigger that must stand in the text, so that plain
answers cost nothing. The paper grader does not use these rules.
"""

import re
from fractions import Fraction
from typing import Any

from promptcot_mamba.grading.math.layout import (
    PERMUTED,
    PERMUTED_BEFORE,
    drop_parts,
    join_lines,
    permute,
    permute_behind,
)
from promptcot_mamba.grading.math.tables import CHANGING, CURRENCY_CODES, TEXT, pairs
from promptcot_mamba.grading.math.units import measure

MAX_LISTED = 60
_LETTER_UNITS = pairs(
    "m=meter g=gram s=second h=hour l=liter L=liter N=newton J=joule W=watt V=volt A=ampere F=farad K=kelvin T=tesla"
    " C=coulomb"
)
_UNIT_LETTER = "".join(_LETTER_UNITS)


def spell(text: str) -> str:
    """The cleaned text with every rule applied that its signs call for.

    Runs of spaces are cut to one first, also those that styling leaves: patterns may try each space of a run.
    """
    for rules in (_STYLING, _RULES):
        text = " ".join(text.split())
        for trigger, pattern, replacement in rules:
            if trigger in text:
                text = pattern.sub(replacement, text)
    if "\\cr" in text and "\\begin" not in text:
        text = join_lines(text)
    if ")" in text:
        text = drop_parts(text)
    if any(sign.isdigit() for sign in text) and any(sign.isalpha() or sign in "'’" for sign in text):
        text = _RATE.sub(r"\\text{\1/\2}\3", text) if "frac" in text else text
        text = _CURRENCY.sub(_name_currency, text)
        text = _ORDINAL.sub("", text)
        text = _join_measures(text)
        text = _LONE_UNIT.sub(_name_unit, text)
    return text


def _repeat(match: re.Match[str]) -> str:
    """`0.333\\ldots` as `0.\\overline{3}`: the digits must show their period, thrice where it is one digit long."""
    whole, digits = match.group(1), match.group(2)
    for lead in range(min(len(digits), 12)):
        tail = digits[lead:]
        for period in range(1, len(tail) // 2 + 1):
            needed = 3 if period == 1 else 2
            block = tail[:period]
            if len(tail) >= needed * period and block.strip("0") and (block * len(tail)).startswith(tail):
                return f"{whole or '0'}.{digits[:lead]}\\overline{{{block}}}"
    return match.group()


def _dotted(match: re.Match[str]) -> str:
    """`0.\\dot{1}42\\dot{7}`: the digits from the first dotted to the last repeat."""
    return f"{match.group(1)}\\overline{{{match.group(2)}{match.group(3) or ''}{match.group(4) or ''}}}"


def _progression(match: re.Match[str]) -> str:
    """`1, 2, \\ldots, 6` in full where its numbers keep one distance; else as it stands, which is unreadable."""
    first = [int(number) for number in match.group(1).replace(" ", "").rstrip(",").split(",")]
    last = [int(number) for number in match.group(2).replace(" ", "").split(",")]
    step = first[1] - first[0] if len(first) > 1 else 0
    count = (last[-1] - first[0]) // step + 1 if step else 0
    if not len(first) < count <= MAX_LISTED:
        return match.group()
    full = list(range(first[0], last[-1] + (1 if step > 0 else -1), step))
    return ", ".join(map(str, full)) if full[: len(first)] == first and full[-len(last) :] == last else match.group()


def _french(match: re.Match[str]) -> str:
    """`]3, 4]` and `[3, 4[` as `(3, 4]` and `[3, 4)`."""
    return f"{'[' if match[1] == '[' else '('}{match[2]}{']' if match[3] == ']' else ')'}"


def _scientific(match: re.Match[str]) -> str:
    """`2.45\\text{e}6` as `2.45\\cdot 10^{6}`."""
    power = match[2] or f"-{match[4]}"
    return f"{match[1] or match[3]}\\cdot 10^{{{power}}}"


def _remainder(match: re.Match[str]) -> str:
    """`N \\bmod 1000 = 279` as a congruence, if that can be a remainder."""
    reduced = match[2].isdigit() and int(match[3]) < int(match[2])
    return f"{match[1]} \\equiv {match[3]} \\pmod{{{match[2]}}}" if reduced else match[0]


def _choose(match: re.Match[str]) -> str:
    """`C(20, 10) - 1` with a binomial coefficient; on its own it may be a point."""
    return f"\\binom{{{match[1] or match[3]}}}{{{match[2] or match[4]}}}"


def _system(match: re.Match[str]) -> str:
    """Lines of a `cases` environment without conditions: a system's solution, as a list. Pieces stay unreadable."""
    lines = match.group(1)
    return (
        match.group() if "&" in lines or "text" in lines else lines.strip().removesuffix("\\cr").replace("\\cr", ", ")
    )


def _base(match: re.Match[str]) -> str:
    """Digits with a base: capitals, no leading zeros. `2a_1` is a term of a sequence, not a numeral."""
    if not match.group(1).isdigit() and int(match.group(2)) < 11:
        return match.group()
    return f"{match.group(1).upper().lstrip('0') or '0'}_{{{match.group(2)}}}"


_MEASURE = rf"(\d+(?:\.\d+)?)\s*(?:{TEXT}\{{\s*)?([A-Za-z]+|['\"])\.?\s*\}}?"
_MEASURES = re.compile(rf"(?:{TEXT}\{{\s*)?{_MEASURE}(?:\s*(?:,|(?:{TEXT}\{{)?\s*and\s*\}}?)\s*)?\s*{_MEASURE}\s*\.?")
_ARC = re.compile(r"(\d+)\s*\^\s*\{?\s*\\circ\s*\}?\s*(\d+(?:\.\d+)?)\s*(?:'|\^\s*\{?\s*\\prime\s*\}?)")
_SHORT = {"h": "hour", "m": "minute", "'": "foot", '"': "inch"}


def _join_measures(text: str) -> str:
    """`1 hour 30 minutes`, `5 ft 6 in`, `22^\\circ 30'` as one measure of the larger unit."""
    text = _ARC.sub(lambda arc: f"\\frac{{{60 * int(arc[1]) + Fraction(arc[2])}}}{{60}}^{{\\circ}}", text)
    if "=" in text:
        return "=".join(map(_join_measures, text.split("=")))
    match = _MEASURES.fullmatch(text.strip())
    if match is None:
        return text
    units = [_SHORT.get(match[place], match[place]) for place in (2, 4)]
    large, small = (measure(unit) for unit in units)
    if large is None or small is None or large[0] != small[0] or not large[1] > small[1]:
        return text
    part = Fraction(match[3]) * small[1] / large[1]
    if part >= 1:
        return text
    total = Fraction(match[1]) + part
    return f"\\frac{{{total.numerator}}}{{{total.denominator}}}\\text{{{units[0]}}}"


# `\\frac{\\text{km}}{\\text{h}}`, a unit set as a fraction, with the power of its denominator
_RATE = re.compile(
    rf"\\[dt]?frac\s*\{{\s*{TEXT}\{{([A-Za-z ]+)\}}\s*\}}\s*\{{\s*{TEXT}\{{((?:[A-Za-z ]|\\cdot)+)\}}"
    r"\s*(\^\s*\{?[23]\}?)?\s*\}"
)
_CODES = "|".join(map(re.escape, CURRENCY_CODES))
_CURRENCY = re.compile(
    rf"{TEXT}\{{\s*({_CODES})\s*([\d.,]*)\s*\}}|(?<![A-Za-z\\{{])({_CODES})(?![A-Za-z])"
)  # fmt: skip


def _name_currency(match: re.Match[str]) -> str:
    """`\\text{USD } 5`, `Rs. 5` and `5 EUR` with the currency's macro."""
    return f" \\{CURRENCY_CODES[match[1] or match[3]]} {match[2] or ''}"


_LONE_UNIT = re.compile(
    rf"(?<=[\d.)}}])(\s*\^\{{?\\circ\}}?)?\s*{TEXT}\{{\s*([{_UNIT_LETTER}])\s*\}}(?!\s*[_(A-Za-z\d])"
)


def _name_unit(match: re.Match[str]) -> str:
    """`5\\text{ m}` -> `5\\text{meter}`; after a degree sign `C` is Celsius and `F` Fahrenheit."""
    degree = {"C": "celsius", "F": "fahrenheit", "K": "kelvin"}.get(match[2]) if match[1] else None
    return f"\\text{{{degree or _LETTER_UNITS[match[2]]}}}"


BARE_UNIT = re.compile(rf"(?<=[\d)}}])\s+([{_UNIT_LETTER}])(\^\{{?[23]\}}?)?(/\s*(?:s|h|min)(?:\^\{{?2\}}?)?)?\s*$")


def name_bare_unit(match: re.Match[str]) -> str:
    """`5 m`, `5 m^2`, `5 m/s` at the end of an answer, as a unit."""
    rest = (match[3] or "").replace(" ", "").replace("{", "").replace("}", "")
    return f"\\text{{{_LETTER_UNITS[match[1]]}}}{match[2] or ''}" if not rest else f"\\text{{{match[1]}{rest}}}"


_IMPLIED = re.compile(r"^(.*)\\(?:Rightarrow|Longrightarrow|implies)(?![A-Za-z])(?=.*\w)")
_DENIED = re.compile(r"\\(?:neq?|not|lor|vee)(?![A-Za-z])")


def _drop_premise(match: re.Match[str]) -> str:
    """`n = 113 \\Rightarrow 13`: what follows is the answer, unless the premise denies, hedges or offers another."""
    hedged = _DENIED.search(match[1]) or CHANGING & set(re.findall(r"[a-z']+", match[1].lower()))
    return match.group() if hedged else ""


_ORD = r"\s*(?:st|nd|rd|th)\s*"
_COUNTED = (
    "primes?|powers?|roots?|smallest|largest|odd|even|squares?|cubes?|triangular|positive|multiples?|of|Fibonacci"
)
_ORDINAL = re.compile(
    rf"(?<=\d)\s*(?:\^\s*\{{\s*{TEXT}\{{{_ORD}\}}\s*\}}|\^\s*\{{{_ORD}\}}|\^?\s*(?:{TEXT}|\\textsuperscript\s*)\{{{_ORD}\}}"
    rf"|(?:st|nd|rd|th)(?![A-Za-z]))(?!\s*(?:{TEXT}\{{\s*)?(?:{_COUNTED})\b)"
)
_MOD = rf"(?:\\[pb]?mod(?![A-Za-z])|{TEXT}\{{[\s(]*mod(?:ulo)?[\s)]*\}}|\bmod(?:ulo)?\b)"
_NUMBER = r"\{?\s*(\d+|\d?[a-z])\s*\}?"
_BASE = r"\d+|two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen"
_ALSO = re.compile(
    rf"(?:{TEXT}\{{\s*\(|\(\s*{TEXT}\{{)\s*(?:or|i\.e\.|that is|equivalently)\s*,?\s*\}}([^()]*?)"
    rf"(?:{TEXT}\{{\s*\)\s*\}}|\))\s*$"
)  # `\\frac12 \\text{ (or } 0.5)`
_THAT_IS = re.compile(
    rf"(?<=[\w)}}]),?\s*{TEXT}\{{\s*,?\s*(?:i\.e\.|that is|or equivalently|equivalently)\s*[,:]?\s*\}}\s*(?=[-\d\\])"
)
_NEARLY = re.compile(
    rf"(?<=[\w)}}])\s*(?:{TEXT}\{{\s*[,(]+|[,(]\s*{TEXT}\{{)\s*(?:which is |or )?"
    r"(?:approximately|approx\.?|about|roughly)\s*\}\s*(-?[\d.]+)\s*\)?\s*$"
)  # `1/3 \\text{ (approximately } 0.333)`
_PRICE = re.compile(rf"{TEXT}\{{([^{{}}]*?)\\usd\s*(\d[\d,.]*)([^{{}}]*)\}}")  # `\\text{\\$18 a day}`
_TERMS = r"(?:[\d\s{}()^_+*-]|(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])|\\(?:cdot|times|binom|d?frac)(?![A-Za-z]))*"
_PARTIAL_SUM = re.compile(rf"^{_TERMS}[-+]\s*\\[lc]?dots[cb]?\s*[-+]{_TERMS}=(?=[^=,<>]+$)")  # `1+2+\\cdots+10 = 55`
_IN_BASE = re.compile(
    rf"(?<=\d)\s*(?:{TEXT}\{{)?\s*\(?\s*(?:in )?base[ -]?\s*\}}?\s*({_BASE})\s*\)?\s*\}}?\s*$"
)  # `52 \\text{ (base 8)}`
_UNIT_ASIDE = re.compile(
    rf"{TEXT}\{{\s*\(([A-Za-z. ]+)\}}\s*(\^\s*\{{?[23]\}}?)\s*(?:{TEXT}\{{\s*\)\s*\}}|\))"
)  # `33 \\text{ (units}^2)`
_GAP = r"[\s\\,]*"
_REMAINDER = re.compile(  # `N \\bmod 1000 = 279`
    rf"^([^=<>,;]*[\w)}}\]])\s*{_MOD}{_GAP}{_NUMBER}\s*=\s*(\d{{1,18}})\s*$"
)
_ASIDE = re.compile(r"(?<=[\w)}])\s*\(\s*=([^()=]*)\)\s*$")  # `809 \\,(= p + q)`
_EXPONENT = re.compile(
    rf"(?<![\w.\\])(?:(\d*\.?\d+)\s*(?:{TEXT}\{{\s*[eE]\s*\}}|(?<=\d)[eE](?=\+?\d))\s*\+?(\d{{1,3}})"
    rf"|(\d*\.\d+)\s*{TEXT}\{{\s*[eE]\s*(?:\}}\s*-|-\s*\}})\s*(\d{{1,3}}))(?![\w.])"
)  # `7e8`, `2.45\\text{e}6`; `2e-1` may be a difference
_OHMS = re.compile(rf"(?<=[\d.)}}])\s*(?:{TEXT}\{{\s*)?([kMGm])?\s*\}}?\s*\\Omega\s*\}}?\s*$")
_MICRO = re.compile(
    rf"(?<=[\d.)}}])\s*(?:\\mu\s*{TEXT}\{{|{TEXT}\{{\s*\\mu\s*(?:{TEXT}\{{?)?)\s*"
    r"(m|s|g|l|L|A|V|F|C|J|N|T|W|mol|Pa|Hz)\s*\}+"
)
_DOTS = r"\s*(?:\\[lc]?dots[cb]?|\.{3})\s*"
_FACTORS, _SUMMANDS = (
    re.compile(rf"^\s*1\s*{sign}\s*2\s*(?:{sign}\s*3\s*)?(?:{sign})?{_DOTS}(?:{sign})?\s*(\d+|[a-z])\s*$")
    for sign in (r"\\(?:cdot|times)(?![A-Za-z])", r"\+")
)  # `1 \\cdot 2 \\cdots 26`, `1 + 2 + \\cdots + n`
_CHOSEN = r"C\(\s*(\d+)\s*,\s*(\d+)\s*\)"
_CHOOSE = r"\s*(?:C|\\(?:mathrm|text|mathbf)\s*\{\s*C\s*\})\s*"
_UNIT_VECTOR = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|vec|hat|widehat)\s*"
    r"(?:\{\s*\\hat\s*\{\s*([ijk])\s*\}\s*\}|\{\s*\\?([ij]math|[ijk])\s*\}|\\([ij]math)(?![A-Za-z]))"
)

_LETTER = r"[A-Za-z](?:_\w)?"
_CONDITION = re.compile(  # `2k \\quad (k \\in \\mathbb{Z})`, `(x > 0)`, `(n \\ge 2)`: of a letter, behind an answer
    r"(?:\s|(?<=[\w)}\]]))\(\s*(?:\\text\s*\{\s*(?:for|where|with)\s*\}\s*)?"
    rf"({_LETTER}(?:\s*,\s*{_LETTER})*\s*\\in(?![A-Za-z])[^()]*|{_LETTER}\s*\\ne(?:q)?(?![A-Za-z])[^()]*"
    rf"|{_LETTER}\s*(?:\\(?:ge|geq|le|leq|geqslant|leqslant)(?![A-Za-z])|[<>])\s*0|[i-nN]\s*(?:\\(?:ge|geq|geqslant)(?![A-Za-z])|>)\s*\d)\s*\)\s*$"
)
_O = rf"{TEXT}\{{\s*o\s*\}}"
_REALS = r"\\mathbb\s*\{?\s*R\s*\}?\s*"

_Rules = tuple[tuple[str, re.Pattern[str], Any], ...]
# trigger, pattern, replacement; in this order.
_STYLING: _Rules = (
    (
        "color",
        re.compile(r"\\(?:fcolorbox\s*\{[^{}]*\}|(?:text|page)?color(?:box)?)\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}"),
        " ",
    ),
    ("\\", re.compile(r"\\(?:pmb|bold|mathtt|bbox\s*(?:\[[^\[\]]*\])?)(?![A-Za-z])"), " "),
    ("\\text", re.compile(r"\\text(?:up|md|sc|sl)(?![A-Za-z])"), r"\\text"),
    (
        "\\",
        re.compile(
            r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bfseries|itshape|normalfont"
            r"|nonumber|notag|boldmath|unboldmath|ensuremath|strut|null|relax)(?![A-Za-z])"
        ),
        " ",
    ),
)  # fmt: skip
_RULES: _Rules = (
    ("\\", re.compile(r"\s*\\(?:blacksquare|checkmark|qed|qedsymbol|qedhere|Box)\s*$"), ""),
    ("}", re.compile(rf"{TEXT}\{{\s*[.,;:]?\s*\}}\s*$"), ""),
    ("}", re.compile(r"(?<![\^_])\{\s*([-+])\s*\}"), r"\1"),
    ("#", re.compile(rf"^\s*\\?#\s*(?:\\\{{.*?\\\}}|{TEXT}\{{[^{{}}]*\}}|[A-Za-z])\s*=\s*(?=[-\d\\])"), ""),
    ("row", _IMPLIED, _drop_premise),
    ("\\implies", _IMPLIED, _drop_premise),
    ("\\underline", re.compile(r"\\underline\s*\{(?=\s*[\d\\-])"), "{"),
    ("\\", re.compile(r"^\s*\\therefore(?![A-Za-z])"), ""),
    ("(", _UNIT_ASIDE, r"\\text{\1}\2"),
    ("base", _IN_BASE, r"_{\1}"),
    ("\\overline", re.compile(r"(?<![\d.])\\overline\s*\{\s*(\d+)\s*\}"), r"\1"),
    ("]", re.compile(r"^\s*([\[\]])([^\[\]()]*,[^\[\]()]*)([\[\]])\s*$"), _french),
    ("[", re.compile(r"^\s*(\[)([^\[\]()]*,[^\[\]()]*)(\[)\s*$"), _french),
    ("dots", _PARTIAL_SUM, ""),
    ("{array}", re.compile(r"\\\{\s*\\begin\{array\}\s*\{[lcr]\}(.*?)\\end\{array\}\s*$"), _system),
    ("approx", re.compile(r"\(\s*(\\approx(?![A-Za-z])[^()]*)\)\s*$"), r"\1"),
    ("(", _ALSO, r"\\text{ or } \1"),
    ("}", _THAT_IS, r"\\text{ or } "),
    ("}", _NEARLY, r" \\approx \1"),
    ("\\usd", _PRICE, r"\\text{\1} \\usd \2 \\text{\3}"),
    ("cases", re.compile(r"\\begin\{cases\}(.*?)\\end\{cases\}"), _system),
    ("ermutation", PERMUTED, permute),
    ("ermutation", PERMUTED_BEFORE, permute_behind),
    ("const", re.compile(rf"\+\s*{TEXT}\{{\s*(?:an? )?(?:arbitrary )?const(?:ant)?\.?\s*\}}"), "+ C"),
    (")", _CONDITION, r", \1"),
    ("\\", re.compile(r"(?:\s*\\(?:cr)?)+\s*$"), ""),
    ("US", re.compile(r"\bUS\s*(?=\\usd)"), ""),
    ("\\#", re.compile(r"\\#\s*(?=\d)"), ""),
    ("`", re.compile(r"^\s*`+|`+\s*$"), ""),
    (":", re.compile(rf"\{{\s*:\s*\}}|{TEXT}\{{\s*:\s*\}}"), ":"),
    ("to", re.compile(rf"(?<=[\d}}])\s*(?:{TEXT}\{{\s*to\s*\}}|(?<![\\A-Za-z])to\b)\s*(?=[\d\\])"), ":"),
    ("}/_{", re.compile(r"\^\{(\d+)\}/_\{(\d+)\}"), r"\\frac{\1}{\2}"),
    ("m", re.compile(r"(?<![A-Za-z])([ap])\.\s?m\b\.?", re.IGNORECASE), r"\1m"),
    ("o", re.compile(rf"(?<=\d)\s*\^\s*(?:\{{\s*(?:{_O}|o)\s*\}}|{_O}|o\b)"), r"^{\\circ}"),
    ("dot{", re.compile(r"(\d*\.\d*)\\dot\{(\d)\}(?:(\d*)\\dot\{(\d)\})?"), _dotted),
    ("bar", re.compile(r"(?<=[\d.])\\bar\s*\{?(\d+)\}?"), r"\\overline{\1}"),
    ("\\overline", re.compile(r"(?<=[\d.])\\overline\s*(\d)"), r"\\overline{\1}"),
    (")", re.compile(r"(?<![\w.])(\d*\.\d*)\((\d{1,40})\)(?![\d.^])"), r"\1\\overline{\2}"),
    ("dots", re.compile(r"(?<![\d.])(\d*)\.(\d+)\s*\\[lc]?dots[cb]?(?![A-Za-z])(?!\s*[,\d])"), _repeat),
    ("...", re.compile(r"(?<![\d.])(\d*)\.(\d+)\s*\.{3,}(?!\s*[,\d])"), _repeat),
    (
        "dots",
        re.compile(r"((?:-?\d+\s*,\s*){2,})\\[lc]?dots[cb]?(?![A-Za-z])\s*,\s*(-?\d+(?:\s*,\s*-?\d+)*)"),
        _progression,
    ),
    ("...", re.compile(r"((?:-?\d+\s*,\s*){2,})\.{3,}\s*,\s*(-?\d+(?:\s*,\s*-?\d+)*)"), _progression),
    ("mod", _REMAINDER, _remainder),
    ("mod", re.compile(rf"{TEXT}\{{\s*\(?\s*mod(?:ulo)?\s+(\d+|[a-z])\s*\)?\s*\}}"), r" \\pmod{\1}"),
    ("mod", re.compile(rf"\(?\s*{_MOD}{_GAP}{_NUMBER}\s*\)?"), r" \\pmod{\1}"),
    ("C", re.compile(rf"(?:\{{\s*\}}\s*)?[_^]\s*{_NUMBER}{_CHOOSE}_\s*{_NUMBER}"), r"\\binom{\1}{\2}"),
    ("C", re.compile(rf"(?<![A-Za-z\\]){_CHOOSE}_\s*{_NUMBER}\^\s*{_NUMBER}"), r"\\binom{\1}{\2}"),
    ("_", re.compile(r"(?<![\w.\\}])\(?([0-9A-Fa-f]*\d[0-9A-Fa-f]*)\)?_\s*\{?\s*(\d+)\s*\}?(?!\w)"), _base),
    ("\\mathrm{", re.compile(r"(?<=\d)\\mathrm\{\s*([A-F])\s*\}\s*_\s*\{?\s*(16|12)\s*\}?"), r"\1_{\2}"),
    ("(", _ASIDE, r" = \1"),
    ("dots", _FACTORS, r"\1!"),
    ("dots", _SUMMANDS, r"\\frac{\1(\1+1)}{2}"),
    ("C(", re.compile(rf"(?<![A-Za-z\\]){_CHOSEN}(?=\s*[-+*/=\\!])|(?<=[-+*/=])\s*{_CHOSEN}"), _choose),
    ("\\Omega", _OHMS, r"\\text{ \1ohm}"),
    ("\\mu", _MICRO, r"\\text{ u\1}"),
    ("e", _EXPONENT, _scientific),
    ("E", _EXPONENT, _scientific),
    ("\\circ", re.compile(r"\^\s*\{?\s*\\circ\s*\}?\s*C\s*$"), r"\\text{celsius}"),
    ("\\circ", re.compile(r"\^\s*\{?\s*\\circ\s*\}?\s*F\s*$"), r"\\text{fahrenheit}"),
    ("\\", _UNIT_VECTOR, lambda match: f"\\hat{{{(match[1] or match[2] or match[3])[0]}}}"),
    ("\\", re.compile(rf"{TEXT}\{{\s*(\\[a-z]+)\s*\}}"), r"\1 "),
    ("\\mathbb", re.compile(rf"{_REALS}(?:\^\s*\{{?\s*\+\s*\}}?|_\s*\{{?\s*(?:>\s*0|\+)\s*\}}?)"), r"(0,\\infty)"),
    ("\\mathbb", re.compile(rf"{_REALS}(?:\^\s*\{{?\s*-\s*\}}?|_\s*\{{?\s*<\s*0\s*\}}?)"), r"(-\\infty,0)"),
    ("\\mathbb", re.compile(rf"{_REALS}_\s*\{{\s*\\ge(?:q|qslant)?\s*0\s*\}}"), r"[0,\\infty)"),
    ("\\mathbb", re.compile(r"\\mathbb\s*\{?\s*Z\s*\}?\s*(?:\^|_)\s*\{?\s*(?:>\s*0|\+)\s*\}?"), r"\\mathbb{Z}_{+}"),
    ("|", re.compile(r"(?<=[A-Za-z\d}])\s*\\\|\s*(?=[A-Za-z])"), "|"),
)  # fmt: skip
