"""Units as answers write them: `cm^2`, `square inches`, `km/h`, `dollars`: name -> dimension and factor."""

import re
from fractions import Fraction
from functools import lru_cache

from promptcot_mamba.grading.math.tables import UNIT_WORDS, words

Dimension = tuple[tuple[str, int], ...]

# name -> (dimension, size in that dimension's first unit). Plurals are found by dropping the final s.
_SIZES: dict[str, tuple[str, Fraction]] = {
    **dict.fromkeys(("cm", "centimeter", "centimetre"), ("length", Fraction(1, 100))),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), ("length", Fraction(1, 1000))),
    **dict.fromkeys(("m", "meter", "metre"), ("length", Fraction(1))),
    **dict.fromkeys(("km", "kilometer", "kilometre"), ("length", Fraction(1000))),
    **dict.fromkeys(("in", "inch", "inche"), ("length", Fraction(254, 10000))),
    **dict.fromkeys(("ft", "foot", "feet"), ("length", Fraction(3048, 10000))),
    **dict.fromkeys(("yd", "yard"), ("length", Fraction(9144, 10000))),
    **dict.fromkeys(("mi", "mile"), ("length", Fraction(1609344, 1000))),
    **dict.fromkeys(("s", "sec", "second"), ("time", Fraction(1))),
    **dict.fromkeys(("min", "minute"), ("time", Fraction(60))),
    **dict.fromkeys(("h", "hr", "hour"), ("time", Fraction(3600))),
    **dict.fromkeys(("day",), ("time", Fraction(86400))),
    **dict.fromkeys(("week",), ("time", Fraction(604800))),
    **dict.fromkeys(("year", "yr"), ("years", Fraction(1))),
    **dict.fromkeys(("month",), ("months", Fraction(1))),
    **dict.fromkeys(("g", "gram"), ("mass", Fraction(1))),
    **dict.fromkeys(("kg", "kilogram"), ("mass", Fraction(1000))),
    **dict.fromkeys(("mg", "milligram"), ("mass", Fraction(1, 1000))),
    **dict.fromkeys(("lb", "pound"), ("weight", Fraction(16))),
    **dict.fromkeys(("oz", "ounce"), ("weight", Fraction(1))),
    **dict.fromkeys(("l", "liter", "litre"), ("volume", Fraction(1))),
    **dict.fromkeys(("ml", "milliliter", "millilitre"), ("volume", Fraction(1, 1000))),
    **dict.fromkeys(("gallon", "gal"), ("gallons", Fraction(1))),
    **dict.fromkeys(("dollar", "usd", "buck"), ("money", Fraction(1))),
    **dict.fromkeys(("cent", "¢"), ("money", Fraction(1, 100))),
    **dict.fromkeys(("degree", "deg"), ("angle", Fraction(1))),
    **dict.fromkeys(("radian", "rad"), ("radians", Fraction(1))),
    **dict.fromkeys(("percent", "percentage", "pct", "%"), ("percent", Fraction(1))),
    **dict.fromkeys(("eur", "euro"), ("euros", Fraction(1))),
    **dict.fromkeys(("gbp",), ("sterling", Fraction(1))),
    **dict.fromkeys(("inr", "rupee"), ("rupees", Fraction(1))),
    **dict.fromkeys(("cny", "yuan"), ("yuan", Fraction(1))),
    **dict.fromkeys(("jpy", "yen"), ("yen", Fraction(1))),
    **dict.fromkeys(("am",), ("before noon", Fraction(1))),
    **dict.fromkeys(("pm",), ("after noon", Fraction(1))),
    **dict.fromkeys(("unit",), ("units", Fraction(1))),
    **dict.fromkeys(("arcminute",), ("angle", Fraction(1, 60))),
    **{
        name: (name, Fraction(1))
        for name in words("celsius fahrenheit kelvin newton joule watt volt ampere farad coulomb")
    },
    **dict.fromkeys(("hertz", "hz"), ("hertz", Fraction(1))),
}
LITER = Fraction(1, 1000)  # in cubic meters
_PHRASES = {
    "mph": "mile / hour",
    "kph": "km / h",
    "kmph": "km / h",
    "sq": "square",
    "cu": "cubic",
    "cc": "cm ^3",
    "per": "/",
}
_TEMPERATURE = re.compile(r"degrees?\s+(celsius|fahrenheit)")
_PER_CENT = re.compile(r"per\s+cent\b")
_WORD = re.compile(r"\^?-?\d+|[A-Za-z¢%]+|[/*?]")


def _singular(word: str) -> str:
    word = word.lower()
    return word[:-1] if word.endswith("s") and len(word) > 2 and word not in _SIZES else word


@lru_cache(maxsize=4096)
def is_unit_word(word: str) -> bool:
    """Whether a bare word of two letters or more after a number is a unit rather than a product of letters."""
    name = _singular(word)
    return len(word) > 1 and (name in _SIZES or name in UNIT_WORDS or word.lower() in _PHRASES)


@lru_cache(maxsize=4096)
def measure(unit: str) -> tuple[Dimension, Fraction] | None:
    """A unit's dimension and size, None where a word is not known (apples, ways): then it says nothing."""
    unit = _PER_CENT.sub("percent", _TEMPERATURE.sub(r"\1", unit.lower()))
    text = re.sub(r"\b[a-z]+\b", lambda found: _PHRASES.get(found.group(), found.group()), unit)
    powers: dict[str, int] = {}
    size, sign, prefix, last = Fraction(1), 1, 1, None
    for word in _WORD.findall(text):
        if word == "/":
            sign = -1
        elif word in ("square", "squared", "cubic", "cubed"):
            power = 2 if word.startswith("square") else 3
            if word.endswith("d") and last:
                powers[last[0]] += sign * (power - 1)
                size *= last[1] ** (sign * (power - 1))
            else:
                prefix = power
        elif word.lstrip("^-").isdigit() and last:
            extra = int(word.lstrip("^")) - 1
            if abs(extra) > 8:
                return None
            powers[last[0]] = powers[last[0]] + sign * extra
            size *= last[1] ** (sign * extra)
        elif _singular(word) in _SIZES:
            last = _SIZES[_singular(word)]
            powers[last[0]] = powers.get(last[0], 0) + sign * prefix
            size *= last[1] ** (sign * prefix)
            prefix = 1
        elif word != "*":
            return None
    if liters := powers.pop("volume", 0):
        powers["length"] = powers.get("length", 0) + 3 * liters
        size *= LITER**liters
    return (tuple(sorted((name, power) for name, power in powers.items() if power)), size) if powers else None
