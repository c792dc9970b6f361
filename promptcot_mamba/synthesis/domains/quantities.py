r"""Numbers with units as answers write them: `3.0\times 10^{8}\,\mathrm{m/s}`, `\frac{\pi}{4}\text{ s}`, `25^\circ`.

Units are read in `physical_units.py`. What is not understood whole is no quantity: half a unit is a wrong one.
"""

import math
import re
import unicodedata
from dataclasses import dataclass

from promptcot_mamba.grading.math.tables import names
from promptcot_mamba.synthesis.domains.physical_units import Dimension, read_unit

LONGEST = 200  # characters; a longer answer is no quantity
ROUNDED = 0.02  # relative: how far an answer's sides may lie apart (`56.9 m/s \approx 205 km/h`) and still be one

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺"
_PLAIN_DIGITS = str.maketrans(_SUPERSCRIPTS, "0123456789-+")
_MACRO_END = r"(?![A-Za-z])"
_BRACED = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
_LARGE = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_LARGE_WORD = re.compile(rf"(?<=\d)\s+({'|'.join(_LARGE)})\b")
# In this order: what one leaves the next reads.
_DRESS = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\$|\{\}|\\(?:left|right|displaystyle|rm|bf|it|max|min)" + _MACRO_END, " "),
        (r"\\[,;:!> ]|\\q?quad\b|~", " "),
        (r"\\[dts]?frac" + _MACRO_END, r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\^\s*\{\s*([-+]?\d+)\s*\}", r"^\1 "),
        (r"\^\s*\{\s*([-+]?\d+/\d+)\s*\}", r"^(\1)"),
        (r"\^\s*\{?\s*\\circ" + _MACRO_END + r"\s*\}?|\\degree" + _MACRO_END + "|[º˚]", "°"),
        (r"\\(?:mathring\s*\{?\s*(?:\\text\s*\{)?A\}?\}?|AA|angstrom)" + _MACRO_END, "Å"),
        (r"_\s*\{?\s*\\odot\s*\}?|_\s*\{?\s*☉\s*\}?", "☉"),
        (r"_\s*\{?\s*\\oplus\s*\}?", "⊕"),
        (r"\\(?:mu|upmu|micro)" + _MACRO_END, "μ"),
        (r"\*\*", "^"),
        (r"\\(?:Omega|ohm)" + _MACRO_END, "Ω"),
        (r"\\pi" + _MACRO_END, "π"),
        (r"\\(?:cdot|times|ast)" + _MACRO_END + "|[⋅×∙•]", "·"),
        (r"\\%", "%"),
    )
)
_WRAPPED = re.compile(
    r"\\(?:text|mathrm|textrm|mathbf|mathit|mathsf|mathcal|boldsymbol|mbox|operatorname|pu|num|vec|bar|hat|overline)"
    r"\s*\{([^{}]*)\}"
)
_SIUNITX = re.compile(
    rf"\\(?:SI|qty)\s*(?:\[[^\]]*\])?\s*{_BRACED}\s*{_BRACED}|\\(?:si|unit)\s*(?:\[[^\]]*\])?\s*{_BRACED}"
)
_UNIT_MACRO = re.compile(r"\\(?:tothe|raiseto)\s*\{\s*(?P<power>-?\d+)\s*\}|\\(?P<name>[A-Za-z]+)|\s+|(?P<other>.)")
_UNIT_PREFIXES = names("atto femto pico nano micro milli centi deci deca hecto kilo mega giga tera peta exa")
_UNIT_NAMES = {"degreeCelsius": "°C", "celsius": "°C", "degree": "°", "percent": "%", "angstrom": "Å", "dalton": "Da"}
_UNIT_POWERS = {"square": 2, "squared": 2, "cubic": 3, "cubed": 3}

_SIDES = re.compile(rf"=|≈|≃|∼|≅|\\(?:approx|simeq|sim|cong|equiv|doteq){_MACRO_END}")
# `v`, `\Delta x`, `|F_{net}|`, `v(2 s)`, `Final speed`; a function's name or a sign before it would make it no label.
_LABEL = re.compile(
    rf"\|?\s*(?!\\?(?:sin|cos|tan|cot|sec|log|ln|lg|exp|sqrt|frac){_MACRO_END})(?:\\?[A-Za-zα-ωΑ-Ω]+\s*)+"
    r"(?:_\s*(?:\{[^{},]*\}|\w+)|'|\*|\([^(),]*\)|\s)*\|?\s*"
)
_LISTED = re.compile(r"[,;]|\b(?:and|or)\b")
_REMARK = re.compile(r"\s*\(?\s*(?:dimensionless|unitless|no units?)\s*\)?$|[.;,\s]+$", re.IGNORECASE)
_ABOUT = re.compile(r"^(?:about|approximately|approx\.?|roughly|around)\s+", re.IGNORECASE)

# `12,345.6`, `6.626 070 15`, `0.5`, `5.`, `.5`; a comma behind 0 or before other than three digits is no thousand's.
_DIGITS = (
    r"[1-9]\d{0,2}(?:(?:,|\{,\}| )\d{3})+(?!\d|,\d| \d{3})(?:\.\d+)?"
    r"|\d+(?:\.\d{3}(?: \d{3})+(?: \d{1,2}(?=[\seE]))?|\.\d+|\.(?!\d))?|\.\d+"
)
_EXPONENT = r"10\s*\^\s*(?:\{\s*(?P<p1>[-+]?\d{1,3})\s*\}|\(\s*(?P<p2>[-+]?\d{1,3})\s*\)|(?P<p3>[-+]?\d{1,3}))(?!\d)"
_ATOM = re.compile(
    rf"\s*(?:(?P<ten>{_EXPONENT})|(?P<digits>{_DIGITS})(?:[eE](?P<e>[-+]?\d{{1,3}})(?![\d.]))?|(?P<pi>π)"
    rf"|\\sqrt\s*(?:\[\s*(?P<order>[2-9])\s*\])?\s*(?P<root>\{{)|√\s*(?P<bare>\d+(?:\.\d+)?)|\\(?P<fraction>frac)\s*\{{"
    r"|(?P<round>\())"
)
_SIGN = re.compile(r"\s*([-+]?)\s*")
_TIMES, _OVER = re.compile(r"\s*(?:[·*]|[xX](?=\s*10\s*\^))"), re.compile(r"\s*/")
# What may stand behind what without a sign: `2π`, `3√2`, `π√2`; never `1½`, which is a sum.
_BESIDE = {"digits": ("pi", "root", "ten"), "fraction": ("pi", "root"), "pi": ("root",), "root": ("pi",)}
_TIMED = ("ten", "pi", "root", "fraction")


@dataclass(frozen=True)
class Quantity:
    """A value in SI's base units, its dimension, what it counts (angles, cycles), and the text it was read from."""

    value: float
    dimension: Dimension
    text: str
    kinds: frozenset[str] = frozenset()


def read_quantity(text: str) -> Quantity | None:
    """The quantity that an answer is; None where it is none, or has a unit that is not known.

    Of `v = 5 m/s = 18 km/h` it is the last side; a first that is neither a name nor the same quantity makes it none.
    """
    if len(text) > LONGEST:
        return None
    first, *rest = _SIDES.split(_ABOUT.sub("", _plain(text)))
    last = _read_side((rest or [first])[-1])
    if last is None or any(_LISTED.search(side) for side in [first, *rest][:-1] if _read_side(side) is None):
        return None
    if rest and first.strip() and not _LABEL.fullmatch(first) and not _is_rounded(_read_side(first), last):
        return None
    told = [side for side in map(_read_side, rest[:-1]) if side and side.dimension == last.dimension]
    if not all(_is_rounded(side, last) for side in told):
        return None
    return Quantity(last.value, last.dimension, text.strip(), last.kinds)


def same_quantity(a: Quantity, b: Quantity, tolerance: float) -> bool:
    """Whether two quantities have one dimension and values within `tolerance` of each other, relative.

    `s^-1` may be Hz or rad/s, but these are not each other: what one counts and the other does not must not differ.
    """
    apart = a.kinds - b.kinds and b.kinds - a.kinds
    return a.dimension == b.dimension and not apart and math.isclose(a.value, b.value, rel_tol=tolerance)


def _is_rounded(side: Quantity | None, last: Quantity) -> bool:
    """Whether one side of an answer is another up to rounding."""
    return side is not None and same_quantity(side, last, ROUNDED)


def _read_side(text: str) -> Quantity | None:
    text = _REMARK.sub("", _REMARK.sub("", text.strip()))
    sign = _SIGN.match(text)
    at = sign.end() if sign else 0
    found = _read_number(text, at)
    if found is None:
        return None
    value, at = found
    unit = read_unit(text[at:].strip())
    if unit is None:
        return None
    value *= -unit.size if sign and sign[1] == "-" else unit.size
    return Quantity(value, unit.dimension, text, unit.kinds) if math.isfinite(value) else None


def _read_number(text: str, at: int) -> tuple[float, int] | None:
    """A product of numbers from `at` on, and where it ends; None where none begins there."""
    found = _read_atom(text, at)
    if found is None:
        return None
    value, at, kind = found
    is_over = False  # in 1/2π it is not told what is below
    while True:
        times, over = _TIMES.match(text, at), _OVER.match(text, at)
        joint = times or over
        following = _read_atom(text, joint.end() if joint else at)
        if following is None:
            return value, at
        number, end, next_kind = following
        expected = ("digits", "pi", "root") if over else _TIMED if times else _BESIDE.get(kind, ())
        if next_kind not in expected or (is_over and next_kind != "ten") or (over and not number):
            return value, at  # what stands there is no unit either
        value = value / number if over else value * number
        at, kind, is_over = end, next_kind, is_over or bool(over)


def _read_atom(text: str, at: int) -> tuple[float, int, str] | None:
    """One number, where it ends, and its kind; None where there is none."""
    found = _ATOM.match(text, at)
    if found is None:
        return None
    end = found.end()
    if found["ten"]:
        return float(f"1e{found['p1'] or found['p2'] or found['p3']}"), end, "ten"
    if found["digits"]:
        digits = re.sub(r"\{,\}|[, ]", "", found["digits"])
        return float(f"{digits}e{found['e'] or 0}"), end, "digits"
    if found["pi"]:
        return math.pi, end, "pi"
    if found["bare"]:
        return math.sqrt(float(found["bare"])), end, "root"
    inner = _read_group(text, end, ")" if found["round"] else "}")
    if inner is None:
        return None
    value, end = inner
    if found["root"]:
        return (value ** (1 / int(found["order"] or 2)), end, "root") if value >= 0 else None
    if found["round"]:
        return value, end, "round"
    opened = re.compile(r"\s*\{").match(text, end)
    below = _read_group(text, opened.end(), "}") if opened else None
    return (value / below[0], below[1], "fraction") if below and below[0] else None


def _read_group(text: str, at: int, end: str) -> tuple[float, int] | None:
    """A number with its sign, up to a closing bracket."""
    sign = _SIGN.match(text, at)
    at = sign.end() if sign else at
    found = _read_number(text, at)
    closed = re.compile(rf"\s*\{end}").match(text, found[1]) if found else None
    if found is None or closed is None:
        return None
    return (-found[0] if sign and sign[1] == "-" else found[0]), closed.end()


def _plain(text: str) -> str:
    """A quantity less LaTeX's dress."""
    text = re.sub(f"[{_SUPERSCRIPTS}]+", lambda run: f"^{run[0].translate(_PLAIN_DIGITS)} ", text)
    text = unicodedata.normalize("NFC", text).replace("µ", "μ").replace("−", "-").replace("℃", "°C").replace("℉", "°F")
    text = re.sub(r"\\ang\s*\{\s*([-+]?[\d.]+)\s*\}", r"\1°", text)
    text = _SIUNITX.sub(_from_siunitx, text)
    for pattern, plain in _DRESS:
        text = pattern.sub(plain, text)
    while (bare := _WRAPPED.sub(r" \1", text)) != text:
        text = bare
    text = _LARGE_WORD.sub(lambda word: f"·10^{_LARGE[word[1]]} ", text)
    text = re.sub(r"μ\s+(?=[A-Za-zΩ])", "μ", text)
    return re.sub(r"°\s*([CF])(?![A-Za-z])", r"°\1", text).strip()


def _from_siunitx(found: re.Match[str]) -> str:
    r"""`\SI{5}{\metre\per\second\squared}` as `5 metre second^-2`: here \per is of the next unit alone."""
    number, body, alone = found.groups()
    units: list[str] = []
    prefix, sign, power = "", 1, 1
    for token in _UNIT_MACRO.finditer(body if alone is None else alone):
        name = token["name"]
        if name == "per":
            sign = -1
        elif name in ("square", "cubic"):
            power = _UNIT_POWERS[name]
        elif name in _UNIT_PREFIXES:
            prefix = name
        elif (raised := token["power"] or _UNIT_POWERS.get(name)) and units:
            units[-1] = f"{units[-1].partition('^')[0]}^{int(raised) * (-1 if '^-' in units[-1] else 1)}"
        elif name:
            exponent = sign * power
            units.append(f"{prefix}{_UNIT_NAMES.get(name, name)}{'' if exponent == 1 else f'^{exponent}'}")
            prefix, sign, power = "", 1, 1
        elif token["other"]:  # written out: `m/s^2`, `kg.m.s^{-1}`
            return f" {number or ''} " + re.sub(r"\.(?!\d)|~", "·", body if alone is None else alone)
    waits = sign == -1 or power != 1 or prefix
    return f" {number or ''} {' '.join(units)}{' per' if waits else ''} "
