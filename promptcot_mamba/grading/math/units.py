"""Units as answers write them: `cm^2`, `square inches`, `km/h`, `keV`, `dollars`: name -> dimension and factor.

Long names and everyday abbreviations are read in any case. Symbols are read as written, with the prefixes that they
take, so that `mW` is not `MW`. Sizes are those of the SI brochure (9th edition) and of NIST's Handbook 44.
"""

import re
from fractions import Fraction
from functools import lru_cache

from promptcot_mamba.grading.math.tables import UNIT_WORDS, names, pairs, words

Dimension = tuple[tuple[str, int], ...]
Size = tuple[Dimension, Fraction]

# What sizes are counted in: meter, second, gram, and for what is never converted into those, a unit of its own.
_BASES: dict[str, Size] = {
    base: (((base, 1),), Fraction(1))
    for base in words(
        "length time mass weight gallons money angle radians percent years euros sterling rupees yuan yen current"
        " kelvin celsius fahrenheit amount candela bits units tons knots parsecs decibels revolutions"
    )
}
_BASES |= {"before noon": ((("before noon", 1),), Fraction(1)), "after noon": ((("after noon", 1),), Fraction(1))}


def _times(*factors: tuple[str, int], size: Fraction | int = 1) -> Size:
    """A derived unit: powers of bases, and how many of their product it is."""
    return tuple(sorted((base, power) for base, power in factors)), Fraction(size)


_NEWTON = _times(("mass", 1), ("length", 1), ("time", -2), size=1000)
_JOULE = _times(("mass", 1), ("length", 2), ("time", -2), size=1000)
_WATT = _times(("mass", 1), ("length", 2), ("time", -3), size=1000)
_PASCAL = _times(("mass", 1), ("length", -1), ("time", -2), size=1000)
_COULOMB = _times(("current", 1), ("time", 1))
_VOLT = _times(("mass", 1), ("length", 2), ("time", -3), ("current", -1), size=1000)
_OHM = _times(("mass", 1), ("length", 2), ("time", -3), ("current", -2), size=1000)
_FARAD = _times(("mass", -1), ("length", -2), ("time", 4), ("current", 2), size=Fraction(1, 1000))
_TESLA = _times(("mass", 1), ("time", -2), ("current", -1), size=1000)
_WEBER = _times(("mass", 1), ("length", 2), ("time", -2), ("current", -1), size=1000)
_HENRY = _times(("mass", 1), ("length", 2), ("time", -2), ("current", -2), size=1000)
_HERTZ = _times(("time", -1))
_AREA, _LITER = _times(("length", 2)), _times(("length", 3), size=Fraction(1, 1000))
_EV = Fraction(1602176634, 10**28)
_TORR = Fraction(101325, 760)


def _table(*rows: tuple[str, Size | str, Fraction | int]) -> dict[str, Size]:
    """Names of one size each: `names, what they are a number of, that number`."""
    table: dict[str, Size] = {}
    for spelled, of, size in rows:
        dimension, one = _BASES[of] if isinstance(of, str) else of
        table |= dict.fromkeys(words(spelled), (dimension, one * size))
    return table


# Read in any case, in the singular or plural. Those that take "kilo", "micro"... in front of them come first.
PREFIXABLE = _table(
    ("meter metre", "length", 1), ("second", "time", 1), ("gram gramme", "mass", 1), ("liter litre", _LITER, 1),
    ("newton", _NEWTON, 1), ("joule", _JOULE, 1), ("watt", _WATT, 1), ("volt", _VOLT, 1), ("ampere amp", "current", 1),
    ("farad", _FARAD, 1), ("coulomb", _COULOMB, 1), ("hertz", _HERTZ, 1), ("pascal", _PASCAL, 1),
    ("kelvin", "kelvin", 1),
    ("tesla", _TESLA, 1), ("ohm", _OHM, 1), ("weber", _WEBER, 1), ("henry", _HENRY, 1), ("mole", "amount", 1),
    ("electronvolt", _JOULE, _EV), ("calorie", _JOULE, Fraction(4184, 1000)), ("byte", "bits", 8), ("bit", "bits", 1),
    ("ton tonne", "tons", 1), ("parsec", "parsecs", 1), ("bar", _PASCAL, 10**5), ("bel", "decibels", 10),
)  # fmt: skip
NAMES = PREFIXABLE | _table(
    ("cm", "length", Fraction(1, 100)), ("mm", "length", Fraction(1, 1000)), ("m", "length", 1), ("km", "length", 1000),
    ("in inch inche", "length", Fraction(254, 10000)), ("ft foot feet", "length", Fraction(3048, 10000)),
    ("yd yard", "length", Fraction(9144, 10000)), ("mi mile", "length", Fraction(1609344, 1000)),
    ("furlong", "length", Fraction(201168, 1000)), ("micron", "length", Fraction(1, 10**6)),
    ("angstrom å", "length", Fraction(1, 10**10)), ("lightyear", "length", 9460730472580800),
    ("acre", _AREA, Fraction(40468564224, 10**7)), ("hectare", _AREA, 10**4),
    ("s sec", "time", 1), ("min minute", "time", 60), ("h hr hour", "time", 3600), ("day", "time", 86400),
    ("week", "time", 604800), ("fortnight", "time", 1209600),
    ("year yr", "years", 1), ("month", "years", Fraction(1, 12)), ("decade", "years", 10),
    ("century centurie", "years", 100),
    ("g", "mass", 1), ("kg", "mass", 1000), ("mg", "mass", Fraction(1, 1000)),
    ("lb pound", "weight", 16), ("oz ounce", "weight", 1), ("l", _LITER, 1), ("ml", _LITER, Fraction(1, 1000)),
    ("gallon gal", "gallons", 1), ("quart qt", "gallons", Fraction(1, 4)), ("pint pt", "gallons", Fraction(1, 8)),
    ("cup", "gallons", Fraction(1, 16)), ("tablespoon tbsp", "gallons", Fraction(1, 256)),
    ("teaspoon tsp", "gallons", Fraction(1, 768)),
    ("dollar usd buck", "money", 1), ("cent ¢", "money", Fraction(1, 100)), ("dime", "money", Fraction(1, 10)),
    ("nickel", "money", Fraction(1, 20)), ("penny pennie", "money", Fraction(1, 100)),
    ("degree deg", "angle", 1), ("arcminute", "angle", Fraction(1, 60)), ("arcsecond", "angle", Fraction(1, 3600)),
    ("radian rad", "radians", 1), ("percent percentage pct %", "percent", 1),
    ("eur euro", "euros", 1), ("gbp", "sterling", 1), ("inr rupee", "rupees", 1), ("cny yuan", "yuan", 1),
    ("jpy yen", "yen", 1), ("am", "before noon", 1), ("pm", "after noon", 1), ("unit", "units", 1),
    ("celsius", "celsius", 1), ("fahrenheit", "fahrenheit", 1), ("erg", _JOULE, Fraction(1, 10**7)),
    ("dyne dyn", _NEWTON, Fraction(1, 10**5)), ("gauss", _TESLA, Fraction(1, 10**4)), ("mol", "amount", 1),
    ("hz", _HERTZ, 1), ("atm atmosphere", _PASCAL, 101325), ("torr mmhg", _PASCAL, _TORR),
    ("knot", "knots", 1), ("revolution", "revolutions", 1),
)  # fmt: skip
# Read as written, with a prefix or without.
SYMBOLS = _table(
    ("m", "length", 1), ("s sec", "time", 1), ("g", "mass", 1), ("l L", _LITER, 1), ("N", _NEWTON, 1), ("J", _JOULE, 1),
    ("W", _WATT, 1), ("V", _VOLT, 1), ("A", "current", 1), ("F", _FARAD, 1), ("C", _COULOMB, 1), ("Hz", _HERTZ, 1),
    ("Pa", _PASCAL, 1), ("K", "kelvin", 1), ("T", _TESLA, 1), ("Ω ohm", _OHM, 1), ("Wb", _WEBER, 1), ("H", _HENRY, 1),
    ("mol", "amount", 1), ("eV", _JOULE, _EV), ("cal", _JOULE, Fraction(4184, 1000)), ("Wh", _JOULE, 3600),
    ("Ah", _COULOMB, 3600), ("B", "bits", 8), ("bit b", "bits", 1), ("bar", _PASCAL, 10**5), ("pc", "parsecs", 1),
    ("yr", "years", 1), ("cd", "candela", 1), ("t", "tons", 1),
    ("dyn", _NEWTON, Fraction(1, 10**5)), ("G", _TESLA, Fraction(1, 10**4)),
)  # fmt: skip
EXACT = _table(
    ("AU au", "length", 149597870700), ("ly", "length", 9460730472580800), ("ha", _AREA, 10**4), ("dB", "decibels", 1),
    ("psi", _PASCAL, Fraction(6894757293168, 10**9)), ("Å", "length", Fraction(1, 10**10)), ("KB", "bits", 8000),
    ("KiB", "bits", 8 * 2**10), ("MiB", "bits", 8 * 2**20), ("GiB", "bits", 8 * 2**30),
)  # fmt: skip
# Prefixes of symbols and of names -> the power of ten.
POWERS = pairs("T=12 G=9 M=6 k=3 h=2 d=-1 c=-2 m=-3 u=-6 µ=-6 μ=-6 n=-9 p=-12 f=-15")
PREFIX_WORDS = pairs(
    "tera=12 giga=9 mega=6 kilo=3 hecto=2 deci=-1 centi=-2 milli=-3 micro=-6 nano=-9 pico=-12 femto=-15"
)
# Symbols that are units also where no macro sets them apart from a product of letters (`5 kPa`, not `5 nm`).
_BARE_SYMBOLS = names(
    "eV keV MeV GeV TeV Pa kPa MPa GPa Hz kHz MHz GHz THz mol mmol kJ MJ kW MW GW kWh kN kV mA mAh mL dL cL kcal atm"
    " mPa mmHg psi rpm dB kB MB GB TB"
)
_NEVER_BARE = names("amp bar bel bit cup mole pt qt å erg dyn torr")  # also words or products of letters
_PHRASES = {
    "mph": "mile / hour",
    "kph": "km / h",
    "kmph": "km / h",
    "sq": "square",
    "cu": "cubic",
    "cc": "cm ^3",
    "rpm": "revolution / minute",
    "per": "/",
}
_TEMPERATURE = re.compile(r"degrees?\s+(celsius|fahrenheit)", re.IGNORECASE)
_PER_CENT = re.compile(r"per\s+cent\b", re.IGNORECASE)
_LIGHT_YEAR = re.compile(r"light[\s-]+year", re.IGNORECASE)
_ELECTRON_VOLT = re.compile(r"electron[\s-]+volt", re.IGNORECASE)
_PREFIX_WORD = re.compile(f"({'|'.join(PREFIX_WORDS)})-?([a-z]+)")
_WORD = re.compile(r"\^?-?\d+|[A-Za-z¢%ΩÅåµμ]+|[/*?]")


def _singular(word: str) -> str:
    word = word.lower()
    return word[:-1] if word.endswith("s") and len(word) > 2 and word not in NAMES else word


def _size(word: str) -> Size | None:
    """One word's size: a symbol as written, else a name in any case."""
    if word in EXACT:
        return EXACT[word]
    if len(word) > 1 and word in SYMBOLS:
        return SYMBOLS[word]
    if word[:1] in POWERS and word not in NAMES and (base := SYMBOLS.get(word[1:])) is not None:
        return base[0], base[1] * Fraction(10) ** int(POWERS[word[0]])
    name = _singular(word)
    if name in NAMES:
        return SYMBOLS.get(word, NAMES[name])
    if (found := _PREFIX_WORD.fullmatch(name)) and (base := PREFIXABLE.get(found[2])) is not None:
        return base[0], base[1] * Fraction(10) ** int(PREFIX_WORDS[found[1]])
    return SYMBOLS.get(word)


@lru_cache(maxsize=4096)
def is_unit_word(word: str) -> bool:
    """Whether a bare word of two letters or more after a number is a unit rather than a product of letters."""
    name = _singular(word)
    if len(word) < 2 or name in _NEVER_BARE:
        return False
    if word in _BARE_SYMBOLS or name in UNIT_WORDS or word.lower() in _PHRASES or name in NAMES:
        return True
    return _PREFIX_WORD.fullmatch(name) is not None and _size(word) is not None


@lru_cache(maxsize=4096)
def measure(unit: str) -> Size | None:
    """A unit's dimension and size, None where a word is not known (apples, ways): then it says nothing."""
    unit = _PER_CENT.sub("percent", _TEMPERATURE.sub(r"\1", unit))
    unit = _ELECTRON_VOLT.sub("electronvolt", _LIGHT_YEAR.sub("lightyear", unit))
    text = re.sub(r"\b[A-Za-z]+\b", lambda found: _PHRASES.get(found.group().lower(), found.group()), unit)
    powers: dict[str, int] = {}
    total, sign, prefix = Fraction(1), 1, 1
    last: Size | None = None

    def count(size: Size, times: int) -> None:
        nonlocal total
        for base, power in size[0]:
            powers[base] = powers.get(base, 0) + times * power
        total *= size[1] ** times

    for word in _WORD.findall(text):
        if word == "/":
            sign = -1
        elif word.lower() in ("square", "squared", "cubic", "cubed"):
            power = 2 if word.lower().startswith("square") else 3
            if word.lower().endswith("d") and last:
                count(last, sign * (power - 1))
            else:
                prefix = power
        elif word.lstrip("^-").isdigit() and last:
            extra = int(word.lstrip("^")) - 1
            if abs(extra) > 8:
                return None
            count(last, sign * extra)
        elif (size := _size(word)) is not None:
            last = size
            count(size, sign * prefix)
            prefix = 1
        elif word not in ("*", "cdot", "times"):
            return None
    return (tuple(sorted((name, power) for name, power in powers.items() if power)), total) if last else None
