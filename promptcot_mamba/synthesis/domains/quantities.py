r"""Numbers with units as answers write them: `3.0\times 10^{8}\,\mathrm{m/s}`, `30 cm`, `J/(kg·K)`, `25^\circ`.

Sizes and dimensions of units are sympy's. What is not understood whole is no quantity: half a unit is a wrong one.
"""

import math
import re
from dataclasses import dataclass
from functools import cache

Dimension = tuple[tuple[str, float], ...]
LONGEST = 200  # characters; a longer answer is no quantity
MOST_EXPONENT = 12

# sympy's name of a unit -> how it is written, with SI prefixes or without.
_PREFIXED = {
    "meter": "m metre meter", "gram": "g gram", "second": "s sec second", "ampere": "A amp ampere",
    "kelvin": "K kelvin", "mole": "mol mole", "candela": "cd candela", "newton": "N newton", "joule": "J joule",
    "watt": "W watt", "pascal": "Pa pascal", "hertz": "Hz hertz", "coulomb": "C coulomb", "volt": "V volt",
    "ohm": "Ω ohm", "farad": "F farad", "siemens": "S siemens", "weber": "Wb weber", "tesla": "T tesla",
    "henry": "H henry", "electronvolt": "eV electronvolt", "liter": "L l liter litre", "bar": "bar",
    "becquerel": "Bq becquerel",
}  # fmt: skip
_PLAIN = {
    "minute": "min minute", "hour": "h hr hour", "day": "d day", "year": "yr year", "degree": "° deg degree",
    "radian": "rad radian", "steradian": "sr steradian", "atmosphere": "atm atmosphere", "percent": "%  percent",
    "inch": "in inch", "foot": "ft foot feet", "mile": "mi mile", "pound": "lb pound", "psi": "psi",
    "astronomical_unit": "au AU", "lightyear": "ly lightyear", "atomic_mass_constant": "u amu Da",
}  # fmt: skip
_PREFIXES = {
    "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "h": 1e2, "d": 1e-1, "c": 1e-2, "m": 1e-3, "μ": 1e-6, "u": 1e-6, "n": 1e-9,
    "p": 1e-12, "f": 1e-15, "tera": 1e12, "giga": 1e9, "mega": 1e6, "kilo": 1e3, "centi": 1e-2, "milli": 1e-3,
    "micro": 1e-6, "nano": 1e-9, "pico": 1e-12,
}  # fmt: skip
_CELSIUS = "celsius"  # a scale, not a size: agrees with itself alone
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")

_SPACING = re.compile(r"\\[,;:!> ]|\\q?quad\b|~|\\(?:left|right)\b")
_WRAPPED = re.compile(r"\\(?:text|mathrm|textrm|mathbf|mbox|rm|mathit|operatorname|si|unit)\s*\{([^{}]*)\}")
_LEAD = re.compile(
    r"^\s*(?:[A-Za-z](?:_\{?\w+\}?)?|[A-Za-z]+_\{?\w+\}?|\\[A-Za-z]+(?:_\{?\w+\}?)?)?\s*(?:=|≈|\\approx|\\simeq|\\sim|~)\s*"
)
_DIGITS = r"\d+(?:(?:,|\\,|\{,\}| )\d{3})*(?:\.\d+)?|\.\d+|\d+"
_NUMBER = re.compile(
    rf"\s*(?P<sign>[-+−]?)\s*(?:\\d?frac\s*\{{(?P<up>{_DIGITS})\}}\s*\{{(?P<down>{_DIGITS})\}}|\\sqrt\s*\{{(?P<root>{_DIGITS})\}}"
    rf"|(?!10\s*\^)(?P<plain>{_DIGITS})(?:[eE](?P<e>[-+]?\d{{1,3}})\b)?(?:\s*/\s*(?P<over>\d+(?:\.\d+)?))?)?"
    r"\s*(?:(?P<times>\\times|\\cdot|×|·|\*|x)?\s*10\s*\^\s*(?:\{\s*(?P<p1>[-+−]?\d{1,3})\s*\}|\(?(?P<p2>[-+−]?\d{1,3})\)?))?"
    r"\s*(?P<pi>\\pi\b|π)?"
)
_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-zμΩ°%]+)|(?P<power>\^\s*(?:\{\s*[-+−]?\d+\s*\}|\(\s*[-+−]?\d+\s*\)|[-+−]?\d+)|[-−]?\d+)|(?P<mark>[*·/()]))"
)


@dataclass(frozen=True)
class Quantity:
    """A value in SI's base units, its dimension, and the text it was read from."""

    value: float
    dimension: Dimension
    text: str


def read_quantity(text: str) -> Quantity | None:
    """The quantity that an answer is; None where it is none, or has a unit that is not known."""
    if len(text) > LONGEST:
        return None
    plain = _plain(text)
    found = _NUMBER.match(plain)
    if found is None or not any(found[name] for name in ("up", "root", "plain", "p1", "p2", "pi")):
        return None
    unit = _read_unit(plain[found.end() :])
    if unit is None:
        return None
    size, dimension = unit
    value = _value(found) * size
    return Quantity(value, dimension, text.strip()) if math.isfinite(value) else None


def same_quantity(a: Quantity, b: Quantity, tolerance: float) -> bool:
    """Whether two quantities have one dimension and values within `tolerance` of each other, relative."""
    return a.dimension == b.dimension and math.isclose(a.value, b.value, rel_tol=tolerance)


def _plain(text: str) -> str:
    """A quantity less LaTeX's dress."""
    text = _SPACING.sub(" ", text.replace("$", " ").translate(_SUPERSCRIPTS).replace("µ", "μ"))
    text = re.sub(r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1 \2", text)
    text = re.sub(r"\^\s*\{\s*([-+−]?\d+)\s*\}", r"^\1 ", text)
    while (bare := _WRAPPED.sub(r" \1", text)) != text:
        text = bare
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b|º", "°", text)
    for name, sign in (
        (r"\\mu\b", "μ"),
        (r"\\(?:Omega|ohm)\b", "Ω"),
        (r"\\cdot\b|⋅|\\times(?!\s*10)", "·"),
        (r"\\%", "%"),
    ):
        text = re.sub(name, sign, text)
    text = re.sub(r"\bper\b", "/", re.sub(r"μ\s+(?=[A-Za-zΩ])", "μ", text))
    return _LEAD.sub("", text).strip().rstrip(".;")


def _value(found: re.Match[str]) -> float:
    def number(name: str) -> float:
        return float(re.sub(r"\\,|\{,\}|[, ]", "", found[name]))

    value = 1.0
    if found["up"]:
        value = number("up") / number("down") if number("down") else math.nan
    elif found["root"]:
        value = math.sqrt(number("root"))
    elif found["plain"]:
        value = number("plain") * float(f"1e{found['e'] or 0}")
        value = value / float(found["over"]) if found["over"] and float(found["over"]) else value
    power = found["p1"] or found["p2"]
    value *= float(f"1e{power.replace('−', '-')}") if power else 1.0
    value *= math.pi if found["pi"] else 1.0
    return -value if found["sign"] in ("-", "−") else value


def _read_unit(text: str) -> tuple[float, Dimension] | None:
    """(size, dimension) of a product of units; after a slash all is below it until the next: J/kg·K is J/(kg·K)."""
    size, sign, depth = 1.0, 1, 0
    total: dict[str, float] = {}
    at, last = 0, None
    text = text.strip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return None
        at = token.end()
        if token["name"]:
            last = _find_unit(token["name"])
            if last is None:
                return None
            size, total = _multiply(size, total, last, sign)
        elif token["power"]:
            power = int(re.sub(r"[\^{}()\s]", "", token["power"]).replace("−", "-"))
            if last is None or not 1 <= abs(power) <= MOST_EXPONENT:
                return None
            size, total = _multiply(size, total, last, sign * (power - 1))
            last = None
        elif token["mark"] in "()":
            depth += 1 if token["mark"] == "(" else -1
            last = None
        else:
            sign, last = (-1 if token["mark"] == "/" else sign), None
    dimension = tuple(sorted((name, power) for name, power in total.items() if power))
    return (size, dimension) if depth == 0 else None


def _multiply(
    size: float, total: dict[str, float], unit: tuple[float, Dimension], power: int
) -> tuple[float, dict[str, float]]:
    own, dimension = unit
    return size * own**power, {**total, **{name: total.get(name, 0) + power * each for name, each in dimension}}


def _find_unit(name: str) -> tuple[float, Dimension] | None:
    """A unit by its name, in the plural, with a prefix; names that are units themselves come first (`min`, `cd`)."""
    if name in ("°C", "celsius", "degC"):
        return 1.0, ((_CELSIUS, 1),)
    units = _units()
    for spelled in (name, name.removesuffix("s"), name.lower(), name.lower().removesuffix("s")):
        if spelled in units and (len(name) > 3 or spelled == name):
            return units[spelled][:2]
        for prefix, factor in _PREFIXES.items():
            rest = spelled.removeprefix(prefix)
            is_word = len(prefix) > 2
            fits = rest != spelled and rest in units and units[rest][2] and (len(rest) > 3) == is_word
            if fits and (len(name) > 3 or spelled == name):
                return factor * units[rest][0], units[rest][1]
    return None


@cache
def _units() -> dict[str, tuple[float, Dimension, bool]]:
    """Name -> (size, dimension, whether prefixes go with it)."""
    import sympy.physics.units as sympy_units
    from sympy.physics.units.systems.si import SI, dimsys_SI

    found: dict[str, tuple[float, Dimension, bool]] = {}
    for table, takes_prefixes in ((_PREFIXED, True), (_PLAIN, False)):
        for name, spellings in table.items():
            quantity = getattr(sympy_units, name)
            size = float(SI.get_quantity_scale_factor(quantity))
            dependencies = dimsys_SI.get_dimensional_dependencies(SI.get_quantity_dimension(quantity))
            dimension = tuple(sorted((str(base.name), float(power)) for base, power in dependencies.items()))
            found |= dict.fromkeys(spellings.split(), (size, dimension, takes_prefixes))
    return found
