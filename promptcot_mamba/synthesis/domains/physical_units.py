r"""Units of physics: a size in SI's base units, a dimension, and what is counted, out of `kg m^2/s^2` or `J/(mol·K)`.

Names, symbols, prefixes and sizes are the strict maths grader's. It keeps years, pounds or turns apart from what they
convert to, for a problem that asks for pounds wants pounds; a quantity of physics is converted. Units that only physics
has are defined here by those.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from promptcot_mamba.grading.math.tables import names
from promptcot_mamba.grading.math.tokens import UnreadableError
from promptcot_mamba.grading.math.units import EXACT, NAMES, POWERS, PREFIX_WORDS, PREFIXABLE, SYMBOLS, Size

MOST_EXPONENT = 12
LONGEST_WORD = 8  # letters of symbols written as one
Dimension = tuple[tuple[str, Fraction], ...]
ANGLE = frozenset({"angle"})


@dataclass(frozen=True)
class Unit:
    """size: in kg, m, s, A, K, mol, cd; dimension: powers of those, and of what is not converted into them; kinds: what
    a number without a dimension counts: angles, cycles, photons.
    """

    size: float = 1.0
    dimension: Dimension = ()
    kinds: frozenset[str] = frozenset()

    def times(self, other: "Unit", power: Fraction | int = 1) -> "Unit":
        """This times another to a power. Raises OverflowError for sizes beyond a float's."""
        powers = dict(self.dimension)
        for base, own in other.dimension:
            powers[base] = powers.get(base, Fraction(0)) + own * power
        dimension = tuple(sorted((base, own) for base, own in powers.items() if own))
        return Unit(self.size * other.size ** float(power), dimension, self.kinds | other.kinds)


def _of(base: str) -> Dimension:
    return ((base, Fraction(1)),)


# Bases of physics alone: a lumen is no candela, a sievert no gray.
_OWN = {"sr": "solid angle", "steradian": "solid angle", "Sv": "equivalent dose", "sievert": "equivalent dose"}
# What the grader's bases are: those it shares with SI, what it does not convert, and `gallons`, not of SI at all.
_BASES: dict[str, Unit] = {
    **{base: Unit(1.0, _of(base)) for base in ("length", "time", "current", "kelvin", "amount", "candela")},
    **{base: Unit(1.0, _of(base)) for base in ("celsius", "fahrenheit", "decibels", "tons", *_OWN.values())},
    "mass": Unit(1e-3, _of("mass")),
    "weight": Unit(0.028349523125, _of("mass")),
    "gallons": Unit(3.785411784e-3, (("length", Fraction(3)),)),
    "years": Unit(31557600.0, _of("time")),
    "knots": Unit(1852 / 3600, (("length", Fraction(1)), ("time", Fraction(-1)))),
    "parsecs": Unit(3.0856775814913673e16, _of("length")),
    "percent": Unit(0.01),
    "angle": Unit(math.pi / 180, (), ANGLE),
    "radians": Unit(1.0, (), ANGLE),
    "revolutions": Unit(2 * math.pi, (), ANGLE),
}
# What is counted: a number, but photons are not electrons, nor cycles radians.
_COUNTED = names("cycle photon electron proton neutron particle atom ion molecule nucleus decay count fringe turn")
# Names, a number and a unit: those that take prefixes, and those that take none. CODATA 2022, IAU 2015, NIST SP 811.
_PREFIXED = {
    "Hz hertz": (1.0, "cycle/s"), "Bq becquerel": (1.0, "decay/s"), "Ci curie": (3.7e10, "decay/s"),
    "S siemens": (1.0, "A/V"), "Gy gray": (1.0, "J/kg"), "lm lumen": (1.0, "cd sr"),
    "lx lux": (1.0, "lm/m^2"), "M molar": (1.0, "mol/L"), "Da dalton": (1.66053906892e-27, "kg"),
    "barn": (1e-28, "m^2"), "debye": (3.33564e-30, "C m"), "poise": (0.1, "Pa s"), "ly": (9460730472580800.0, "m"),
}  # fmt: skip
_PLAIN = {
    "d": (1.0, "day"), "u amu": (1.66053906892e-27, "kg"), "c": (299792458.0, "m/s"), "t tonne": (1000.0, "kg"),
    "lbf": (4.4482216152605, "N"), "ftlb ftlbf": (1.3558179483314, "J"), "kgf": (9.80665, "N"),
    "hp horsepower": (745.69987158227, "W"), "slug": (14.59390294, "kg"), "mph": (1.0, "mile/hour"),
    "kph kmph": (1.0, "km/hour"), "kn": (1.0, "knot"), "nmi": (1852.0, "m"), "Btu BTU": (1055.05585262, "J"),
    "cmHg": (10.0, "mmHg"), "ksi": (1000.0, "psi"), "rpm RPM": (1.0, "revolution/minute"), "rev": (1.0, "revolution"),
    "rps": (1.0, "revolution/s"), "arcmin": (1.0, "arcminute"), "arcsec": (1.0, "arcsecond"),
    "Ry rydberg": (13.605693122990, "eV"), "hartree": (27.211386245981, "eV"), "cc": (1.0, "cm^3"),
    "dioptre diopter": (1.0, "m^-1"), "ppm": (1e-6, ""), "ppb": (1e-9, ""),
    "°": (1.0, "degree"), "°C degC": (1.0, "celsius"), "°F degF": (1.0, "fahrenheit"),
    "henries": (1.0, "H"), "kilohm": (1.0, "kΩ"), "megohm": (1.0, "MΩ"), "Kg": (1.0, "kg"), "KJ": (1.0, "kJ"),
    "KW": (1.0, "kW"), "KV": (1.0, "kV"), "KN": (1.0, "kN"), "KPa kPA": (1.0, "kPa"), "KHz": (1.0, "kHz"),
    "KeV": (1.0, "keV"),
    "M☉": (1.98841e30, "kg"), "R☉": (6.957e8, "m"), "L☉": (3.828e26, "W"), "M⊕": (5.9722e24, "kg"),
    "R⊕": (6.3781e6, "m"),
}  # fmt: skip
_SPELLED_PREFIXED = frozenset({*_OWN, *(spelled for told in _PREFIXED for spelled in told.split())})
_SPELLED = {spelled: told for each, told in (_PREFIXED | _PLAIN).items() for spelled in each.split()}
# Two things by one name: knots and kilotonnes, gauss and gigaseconds, femtolitres and fluid ounces.
_AMBIGUOUS = frozenset({"kt", "Gs", "fl"})
# Symbols that people write into one word, `Jkg^{-1}K^{-1}`, `Nm^2`: the power is then the last one's.
_FUSED = names("kg m s h N J W V A C K T Pa mol")
_NEVER_FIRST, _NEVER_LATER = names("K"), names("T")  # Km is a kilometre's misprint, AT ampere-turns
_SYMBOL_PREFIXES = {name: int(power) for name, power in POWERS.items()} | {"da": 1, "P": 15, "E": 18, "a": -18}
_WORD_PREFIXES = {
    **{name: int(power) for name, power in PREFIX_WORDS.items()},
    "peta": 15,
    "exa": 18,
    "deca": 1,
    "atto": -18,
}
_WORD_POWERS = {"square": 2, "sq": 2, "cubic": 3, "squared": 2, "cubed": 3}

_TOKEN = re.compile(
    r"\s*(?:(?P<name>°(?:[CF](?![A-Za-z]))?|[A-Za-zμΩÅ]+[☉⊕]?|%)|(?P<one>1(?=\s*/))|\\(?P<of>frac|sqrt)\s*\{"
    r"|(?P<open>[({])|(?P<mark>[·*×/]))"
)
_POWER = re.compile(
    r"\s*\^\s*(?:\{\s*(?P<braced>[-+]?\d+(?:/\d+)?)\s*\}|\(\s*(?P<round>[-+]?\d+(?:/\d+)?)\s*\)|(?P<bare>[-+]?\d+(?:\.\d+)?))"
    r"|(?<=[A-Za-zΩ])(?P<beside>-?\d+)|\s*(?P<word>squared|cubed)\b"
)
_PHRASES = (
    (re.compile(r"\bdeg(?:rees?)?\s+(?:Celsius|C)\b", re.IGNORECASE), "°C"),
    (re.compile(r"\bdeg(?:rees?)?\s+(?:Fahrenheit|F)\b", re.IGNORECASE), "°F"),
    (re.compile(r"\b(?:foot|feet)[\s-]pounds?\b|\bft\s*[·*-]?\s*lb[fs]?\b|\blbf?\s*[·*-]\s*ft\b"), "ftlb"),
    (re.compile(r"\blight[\s-]year(s?)\b"), r"lightyear\1"),
    (re.compile(r"\belectron[\s-]volt(s?)\b"), r"electronvolt\1"),
    (re.compile(r"\bastronomical\s+units?\b"), "AU"),
    (re.compile(r"\b(?:unified\s+)?atomic\s+mass\s+units?\b"), "u"),
    (re.compile(r"\bnautical\s+miles?\b"), "nmi"),
    (re.compile(r"\b([mc]m)\s+Hg\b"), r"\1Hg"),
    (re.compile(r"\bper\s*cent\b"), "percent"),
    (re.compile(r"(?<=W)\s*/\s*mK\b"), "/(m K)"),  # a conductivity; nothing is told per millikelvin of it
    (re.compile(r"(?<![A-Za-zμ])([kcmμ]?m)s(?=\s*\^\s*[{(]?\s*-|-\d)"), r"\1 s"),  # a speed, not per millisecond
    (re.compile(r"\bper\b"), "/"),
    (re.compile(r"(?<=[A-Za-z])-(?=[A-Za-z])"), "·"),
)


_WORD = re.compile(r"(?<![\\A-Za-zμΩÅ°])[A-Za-zμ]{2,}(?![A-Za-zΩÅ☉⊕])")


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    """The unit that a text is, of no dimension where it is empty; None where any of it is not understood.

    After a slash all is below it until the group ends: J/kg·K is J/(kg·K), as people write it.
    """
    for phrase, plain in _PHRASES:
        text = phrase.sub(plain, text)
    text = _WORD.sub(lambda word: word[0] if find_unit(word[0]) else _split(word[0]), text)
    try:
        return _without_scales(_Reader(text).whole())
    except (UnreadableError, OverflowError, ZeroDivisionError):
        return None


def _without_scales(unit: Unit) -> Unit:
    """Celsius alone is a scale, whose zero is not kelvin's; within J/(kg·°C) a degree of it is a kelvin."""
    if unit.dimension in (_of("celsius"), _of("fahrenheit")):
        return unit
    total = Unit(unit.size, (), unit.kinds)
    for base, power in unit.dimension:
        step = {"celsius": Unit(1.0, _of("kelvin")), "fahrenheit": Unit(5 / 9, _of("kelvin"))}.get(base)
        total = total.times(step or Unit(1.0, _of(base)), power)
    return total


class _Reader:
    """Reads a product of units, from `at` on. Raises UnreadableError for half a unit: half is a wrong one."""

    def __init__(self, text: str):
        self.text, self.at = text, 0

    def whole(self) -> Unit:
        unit = self.product()
        if self.text[self.at :].strip():
            raise UnreadableError(f"{self.text[self.at :]!r} is no unit")
        return unit

    def product(self) -> Unit:
        total, sign, after_sign, last = Unit(), 1, False, ""
        while token := _TOKEN.match(self.text, self.at):
            self.at = token.end()
            if token["mark"]:
                if after_sign:
                    raise UnreadableError("two signs")
                sign, after_sign, last = (-1 if token["mark"] == "/" else sign), True, ""
                continue
            name = token["name"] or "group"
            if last and "°" in (name, last):  # 45° N is a direction, 10 C° a difference
                raise UnreadableError("a degree beside a unit")
            total = total.times(self.factor(token), sign * self.power())
            after_sign, last = False, name
        if after_sign:
            raise UnreadableError("nothing after a sign")
        return total

    def group(self, end: str) -> Unit:
        start, unit = self.at, self.product()
        closed = re.compile(rf"\s*\{end}").match(self.text, self.at)
        if closed is None or self.at == start:
            raise UnreadableError(f"no {end}")
        self.at = closed.end()
        return unit

    def factor(self, token: re.Match[str]) -> Unit:
        if token["one"]:
            return Unit()
        if token["open"]:
            return self.group(")" if token["open"] == "(" else "}")
        if token["of"] == "sqrt":
            return Unit().times(self.group("}"), Fraction(1, 2))
        if token["of"] == "frac":
            above, below = self.group("}"), re.compile(r"\s*\{").match(self.text, self.at)
            if below is None:
                raise UnreadableError("half a fraction")
            self.at = below.end()
            return above.times(self.group("}"), -1)
        if token["name"] in ("square", "sq", "cubic"):
            following = _TOKEN.match(self.text, self.at)
            if following is None or not following["name"]:
                raise UnreadableError("nothing to square")
            self.at = following.end()
            return Unit().times(self.named(following["name"]), _WORD_POWERS[token["name"]])
        return self.named(token["name"])

    def named(self, name: str) -> Unit:
        unit = find_unit(name)
        if unit is None:
            raise UnreadableError(f"{name!r} is no unit")
        return unit

    def power(self) -> Fraction:
        """The power that stands behind a unit, in digits or a word; 1 where there is none."""
        found = _POWER.match(self.text, self.at)
        if found is None:
            return Fraction(1)
        self.at = found.end()
        told = next(group for group in found.groups() if group)
        power = Fraction(_WORD_POWERS.get(told, told))
        if not 0 < abs(power) <= MOST_EXPONENT:
            raise UnreadableError(f"to the power of {told}")
        return power


def _split(word: str) -> str:
    """A word that is no unit as the symbols that it is made of, where that is told in one way; else as it was."""

    def ways(rest: str, before: tuple[str, ...]) -> list[tuple[str, ...]]:
        if not rest:
            return [before]
        found = []
        for end in range(1, min(4, len(rest)) + 1):
            part = rest[:end]
            prefixed = not before and part[0] in "kMGmμn" and part[1:] in _FUSED - {"kg", "m", "s", "h", "mol"}
            plain = part in _FUSED and part not in (_NEVER_LATER if before else _NEVER_FIRST)
            if (plain or prefixed) and part not in before:
                found += ways(rest[end:], (*before, part))
        return found

    told = ways(word, ()) if len(word) <= LONGEST_WORD else []
    return " ".join(told[0]) if len(told) == 1 else word


@lru_cache(maxsize=4096)
def find_unit(name: str) -> Unit | None:
    """A unit by its symbol, as it is written, with a prefix or without, or by its name, in the plural too."""
    if name in _AMBIGUOUS:
        return None
    if (unit := _of_symbol(name)) is not None:
        return unit
    # A name that is no unit of physics (`pm`, after noon) may be a symbol with its prefix.
    if name not in NAMES or _convert(NAMES[name]) is None:
        for prefix, power in _SYMBOL_PREFIXES.items():
            rest = name.removeprefix(prefix)
            takes_prefix = rest in _SPELLED_PREFIXED or (rest in SYMBOLS and rest != "t")
            if rest != name and takes_prefix and len(rest) <= 3 and (unit := _of_symbol(rest)) is not None:
                return Unit(10.0**power).times(unit)
    word = name.lower() if len(name) > 3 else name  # of short names the case tells which symbol they are
    return next((unit for spelled in (word, word.removesuffix("s")) if (unit := _of_word(spelled)) is not None), None)


def _of_symbol(name: str) -> Unit | None:
    if name in _OWN:
        return _BASES[_OWN[name]]
    if name in _SPELLED:
        number, unit = _SPELLED[name]
        defined = read_unit(unit)
        assert defined is not None, name
        return Unit(number).times(defined)
    size = EXACT.get(name) or SYMBOLS.get(name)
    return _convert(size) if size else None


def _of_word(name: str) -> Unit | None:
    if name in _COUNTED:
        return Unit(kinds=frozenset({name}))
    if (name in _SPELLED or name in _OWN) and len(name) > 3:
        return _of_symbol(name)
    if name in NAMES:
        return _convert(NAMES[name])
    for prefix, power in _WORD_PREFIXES.items():
        rest = name.removeprefix(prefix)
        if rest != name and (rest in PREFIXABLE or (rest in _SPELLED_PREFIXED and len(rest) > 3)):
            unit = _of_symbol(rest) if rest in _SPELLED_PREFIXED else _convert(PREFIXABLE[rest])
            return None if unit is None else Unit(10.0**power).times(unit)
    return None


def _convert(size: Size) -> Unit | None:
    """A size of the grader's; None for what physics does not know (money, bits, afternoons)."""
    total = Unit(float(size[1]))
    for base, power in size[0]:
        if base not in _BASES:
            return None
        total = total.times(_BASES[base], power)
    return total
