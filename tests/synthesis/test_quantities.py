r"""Quantities as models write them: which are equal, which are not, and what is none.

The forms are those of SciBench's `unit` column, siunitx's and mhchem's manuals, and boxed answers in public solutions
(`\frac{\text{m}}{\text{s}}`, `4\pi \times 10^{-7} \text{ T}\cdot\text{m/A}`, `\SI{188.5}{\micro\siemens}`).
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptcot_mamba.synthesis.domains.quantities import read_quantity, same_quantity

EQUAL = [
    (r"0.30\ \mathrm{m}", "30 cm"),
    (r"3.0\times 10^{8}\,\mathrm{m/s}", "3e8 m s^-1"),
    (r"9.8 \, \text{m s}^{-2}", "9.81 m/s^2"),
    ("9.8 m/s²", "9.8 m/s/s"),
    (r"v = 3.2\ \text{m/s}", "11.52 km/h"),
    (r"1{,}200\ \text{J}", "1.2 kJ"),
    ("1,200 J", "1200 N m"),
    (r"5\,\mu\mathrm{C}", "5e-6 C"),
    (r"12\,\Omega", "12 ohms"),
    ("450 nm", "4.5 x 10^-7 m"),
    (r"\SI{9.8}{m/s^2}", "9.8 m/s^2"),
    ("4186 J/(kg·K)", "4.186 kJ kg^{-1} K^{-1}"),
    ("4186 J/kg·K", r"4186\ \mathrm{J\,kg^{-1}\,K^{-1}}"),
    (r"25^\circ", "0.43633 rad"),
    (r"40\%", "0.4"),
    (r"\frac{1}{2}\ \mathrm{kg}", "500 g"),
    ("1/2 kg", "0.5 kg"),
    (r"2\pi\ \text{rad/s}", "6.283 rad/s"),
    (r"\approx 0.3\text{ m}", "0.3 meters"),
    ("1.6e-19 C", r"1.6 \times 10^{-19} \, \mathrm{C}"),
    ("10 newtons", "10 N"),
    ("13.6 eV", "2.179e-18 J"),
    ("1 atm", "101325 Pa"),
    ("2.0 h", "120 minutes"),
    (r"10^{-3}\ \text{m}", "1 mm"),
    ("100 MPa", "1e8 N/m^2"),
    ("50 mL", "50 cm^3"),
    (r"\sqrt{2}\ \mathrm{m}", "1.414 m"),
    (r"2.4 \times 10^{5}~\mathrm{W\,m^{-2}}", "240 kW/m^2"),
    ("x = 5", "5"),
    # Celsius and degrees
    ("25 °C", r"25^\circ\mathrm{C}"),
    ("25 °C", r"25^{\circ}\text{C}"),
    ("25 °C", r"25\,^{\circ}\mathrm{C}"),
    ("25 °C", r"25°\text{C}"),
    ("25 °C", r"25\degree\text{C}"),
    ("25 °C", r"25{}^\circ \mathrm{~C}"),
    ("25 °C", "25 ℃"),
    ("25 °C", "25 degrees Celsius"),
    ("25 °C", r"\SI{25}{\degreeCelsius}"),
    ("25 °C", r"\qty{25}{\celsius}"),
    ("77 °F", r"77^{\circ}\text{F}"),
    ("77 °F", "77 degrees Fahrenheit"),
    ("4186 J/(kg·°C)", "4186 J/(kg·K)"),
    (r"1.2 \times 10^{-5}\,^{\circ}\mathrm{C}^{-1}", "1.2e-5 K^-1"),
    (r"4.18\,\text{J/g}^\circ\text{C}", "4180 J/(kg K)"),
    ("5 °C/min", "0.08333 K/s"),
    ("9 °F/h", "5 K/h"),
    (r"30^\circ\text{/s}", r"\frac{\pi}{6}\text{ rad/s}"),
    (r"\ang{30}", "30 deg"),
    # powers in superscripts
    ("10² m", "100 m"),
    ("10⁵ Pa", "100 kPa"),
    ("3.0×10⁸ m/s", "3e8 m/s"),
    ("10⁻³ m", "1 mm"),
    ("6.63 × 10⁻³⁴ J·s", r"6.63 \times 10^{-34}\ \mathrm{J\cdot s}"),
    ("5 m·s⁻²", "5 m/s^2"),
    ("8 kg⋅m²⋅s⁻³⋅A⁻²", "8 Ω"),
    ("2 cm³", "2 mL"),
    # slashes, parentheses, fractions of units
    ("5 N/(m/s)", "5 kg/s"),
    ("12 (V/m)·m", "12 V"),
    (r"12\,\text{V/m}", r"12\,\frac{\text{V}}{\text{m}}"),
    (r"5\,\frac{\text{m}}{\text{s}}", "5 m/s"),
    (r"9.81\ \dfrac{\mathrm{m}}{\mathrm{s}^{2}}", "9.81 m/s^2"),
    (r"8\,\frac{\text{kg} \cdot \text{m}^2}{\text{s}^2}", "8 J"),
    (r"5\frac{m}{s}", "5 m/s"),
    ("25 (m/s)^2", "25 J/kg"),
    (r"25\left(\frac{\text{m}}{\text{s}}\right)^{2}", "25 m^2/s^2"),
    ("6.67e-11 N·(m/kg)^2", "6.67e-11 m^3/(kg·s^2)"),
    ("3 W/(m^2 K^4)", "3 W m-2 K-4"),
    ("50 1/s", r"50\,\text{s}^{-1}"),
    ("50 per second", "50 /s"),
    ("9.8 meters per second squared", "9.8 m/s^2"),
    ("9.8 meters per second per second", "9.8 m/s^2"),
    ("3 square meters", "3 m^2"),
    ("5 cubic centimeters", "5 mL"),
    ("5 kg per cubic meter", "5 g/L"),
    (r"27.4\,\text{MPa}\sqrt{\text{m}}", r"27.4\ \mathrm{MPa\,m^{1/2}}"),
    ("0.6 W/mK", "0.6 W/(m·K)"),
    (r"4.186\ \mathrm{kJ/kgK}", "4186 J/(kg K)"),
    # numbers in LaTeX
    (r"\tfrac{1}{2}\,\text{m}", "0.5 m"),
    (r"\frac12\,\text{m}", "0.5 m"),
    (r"4\pi\times10^{-7}\ \text{T}\cdot\text{m/A}", r"1.2566 \times 10^{-6}\,\mathrm{N\,A^{-2}}"),
    (r"\frac{\pi}{4}\ \text{s}", "0.785 s"),
    (r"\frac{3\pi}{4}\text{ rad}", r"135^\circ"),
    (r"\frac{\sqrt{3}}{2}\text{ m}", "0.866 m"),
    (r"2\sqrt{3}\text{ m}", "3.464 m"),
    (r"\frac{5}{3}\sqrt{2}\text{ m}", "2.357 m"),
    (r"\sqrt[3]{8}\ \text{m}", "2 m"),
    ("√2 m", "1.414 m"),
    ("π/4 s", "0.7854 s"),
    ("3π/2 rad", "4.712 rad"),
    ("-5.0 m", "−5 m"),
    ("(3.0 × 10^8) m/s", "3e8 m/s"),
    ("12 345 J", "12,345 J"),
    ("6.626 070 15e-34 J s", "6.626e-34 J s"),
    ("5·10^3 Pa", "5 kPa"),
    ("1.5*10^3 Pa", "1.5 kPa"),
    # labels, and the same once more in another unit
    (r"v_{\text{max}} = 5\,\text{m/s}", "5 m/s"),
    (r"\Delta x = 0.2 \text{ m}", "20 cm"),
    (r"T_2 \approx 350\,\mathrm{K}", "350 K"),
    (r"\lambda_{\max} = 500\ \text{nm}", "0.5 μm"),
    (r"|\vec{F}| = 10\ \text{N}", "10 N"),
    (r"v(2\,\text{s}) = 4\ \text{m/s}", "4 m/s"),
    (r"56.9\,\text{m/s} \approx 205\,\text{km/h}", "56.9 m/s"),
    (r"F = ma = 10\ \text{N}", "10 N"),
    (r"x = 2\sqrt{3} \approx 3.46\ \text{m}", "3.464 m"),
    # siunitx and mhchem
    (r"\SI{5}{\meter\per\second}", "5 m/s"),
    (r"\SI{188.5}{\micro\siemens}", "188.5e-6 A/V"),
    (r"\qty{9.81}{\metre\per\second\squared}", "9.81 m/s^2"),
    (r"\SI{6.674e-11}{\cubic\metre\per\kilo\gram\per\square\second}", "6.674e-11 N m^2/kg^2"),
    (r"\SI[per-mode=symbol]{40}{\watt\per\square\metre\per\kelvin}", "40 W/(m^2 K)"),
    (r"\qty{1.23}{J.mol^{-1}.K^{-1}}", "1.23 J/(mol K)"),
    (r"\SI{3}{\joule\per\kelvin\mole}", "3 J·mol/K"),
    (r"\SI{2}{\metre\tothe{3}}", "2000 L"),
    (r"5\,\si{\kilo\gram\metre\per\second}", "5 N s"),
    (r"4.6\,\unit{\km\per\hour}", "4.6 km/h"),
    (r"\num{1.5e3}\,\text{Pa}", "1.5 kPa"),
    (r"\pu{123 kJ mol-1}", "123 kJ/mol"),
    # SciBench's units
    (r"-84.7 $\mathrm{~kJ} \mathrm{~mol}^{-1}$", "-84.7 kJ/mol"),
    (r"25 $\mathrm{~m} \cdot \mathrm{s}^{-1}$", "25 m/s"),
    (r"3.2 $\mathrm{lb} \mathrm{in}^{-2}$", "3.2 lb/in^2"),
    (r"300 $\mathrm{ft-lb}$", "406.7 J"),
    ("7 megawatt-hours", "25.2 GJ"),
    (r"6.1 $\mathrm{pm}$", "6.1e-12 m"),
    (r"22 $\mathrm{kcal} / \mathrm{mol}$", "92.05 kJ/mol"),
    ("4 slugs", "58.4 kg"),
    (r"$10^{15} \mathrm{~m} / \mathrm{s}^2 $", "1e15 m/s^2"),
    (r"1.5 $\mathrm{dm}^3 \mathrm{~mol}^{-1}$", "1.5 L/mol"),
    # units that SI does not have
    ("150 lbs", "68.04 kg"),
    ("3 hrs", "10800 s"),
    ("2 kWh", "7.2 MJ"),
    ("500 cal", "2092 J"),
    ("2 kcal", "8368 J"),
    ("760 mmHg", "1 atm"),
    ("760 torr", "101.3 kPa"),
    ("1.54 Å", "0.154 nm"),
    (r"5890\ \text{\AA}", "589 nm"),
    ("60 rpm", "6.283 rad/s"),
    ("2 rev/s", "120 rpm"),
    ("60 mph", "26.82 m/s"),
    ("5 Nm", "5 N·m"),
    (r"8.99\times10^9\ \text{Nm}^2/\text{C}^2", "8.99e9 N·m^2·C^-2"),
    (r"4186\ \mathrm{Jkg^{-1}K^{-1}}", "4186 J/(kg·K)"),
    (r"8.314\ \mathrm{JK}^{-1}\mathrm{mol}^{-1}", "8.314 J/(mol K)"),
    ("9.8 ms^{-2}", "9.8 m/s^2"),
    ("5 ms⁻¹", "5 m/s"),
    ("3 kms^-1", "3 km/s"),
    ("12 kgms^{-1}", "12 N s"),
    ("0.072 Nm^{-1}", "0.072 N/m"),
    ("1e-3 Pas", "1e-3 Pa·s"),
    ("10 kVA", "10 kW"),
    ("4.5 billion years", "4.5 Gyr"),
    (r"2.5\text{ million km}", "2.5e9 m"),
    ("3*10**-6 C", "3 μC"),
    ("3 kNm", "3000 J"),
    ("1 hp", "745.7 W"),
    ("100 psi", "689.5 kPa"),
    ("4.2 ly", "3.97e16 m"),
    ("4.2 light-years", "4.2 light years"),
    ("1.5 GeV", "1.5e9 electron volts"),
    (r"0.511\ \text{MeV}/c^2", "9.109e-31 kg"),
    ("0.6c", "1.8e8 m/s"),
    (r"2.0\,M_\odot", r"3.977 \times 10^{30}\ \text{kg}"),
    ("1.2 u", "1.993e-27 kg"),
    ("500 gauss", "0.05 T"),
    ("3 days", "72 h"),
    ("1 yr", "3.156e7 s"),
    ("5 hPa", "500 Pa"),
    ("10 fm", "1e-14 m"),
    ("5 KJ", "5 kJ"),
    ("10 kilohms", "1e4 Ω"),
    ("2 henries", "2 H"),
    ("27 MPa m^0.5", "27 MPa m^{1/2}"),
    ("3.7e10 Bq", "1 Ci"),
    ("0.1 M", "100 mol/m^3"),
    ("1.33 (dimensionless)", "1.33"),
    ("12 photons/s", "12 s^-1"),
    ("440 Hz", "440 s^-1"),
    ("440 Hz", "440 cycles per second"),
    ("2 rad/s", "2 s^-1"),
]  # fmt: skip
UNEQUAL = [
    ("0.30 m", "0.30"),
    ("1 m", "1 cm"),
    ("1 N", "1 J"),
    ("25 °C", "25 K"),
    ("25 °C", "298.15 K"),
    ("25 °C", "25 °F"),
    (r"25^{\circ}\text{C}", r"25^{\circ}"),
    (r"25^{\circ}\text{C}", r"25\ \text{C}"),
    ("25 °C", "25 °C/s"),
    ("9.8 m/s", "9.8 m/s^2"),
    ("1 min", "1 m"),
    ("1 mm", "1 Mm"),
    ("1 mW", "1 MW"),
    ("-3 m", "3 m"),
    ("1.00 m", "1.02 m"),
    ("10² m", "102 m"),
    ("10⁵ Pa", "105 Pa"),
    ("5 N/(m/s)", "5 N/(m s)"),
    ("5 N/(m/s)", "5 N/m/s"),
    ("12 (V/m)·m", "12 V/m^2"),
    ("25 (m/s)^2", "25 m/s^2"),
    (r"5\,\frac{\text{m}}{\text{s}}", "5 m s"),
    (r"4\pi\times10^{-7}\ \text{H/m}", r"4\times10^{-7}\ \text{H/m}"),
    (r"2\sqrt{3}\text{ m}", r"\sqrt{3}\text{ m}"),
    (r"\frac{\pi}{4}\text{ s}", r"\frac{1}{4}\text{ s}"),
    (r"\SI{3}{\joule\per\kelvin\mole}", "3 J/(K mol)"),
    (r"\SI{5}{\meter\per\second}", r"\SI{5}{\meter\second}"),
    (r"\SI{5}{\milli\watt}", r"\SI{5}{\mega\watt}"),
    ("60 Hz", "60 rad/s"),
    ("60 Hz", "60 Bq"),
    ("60 rpm", "60 rad/s"),
    ("5 photons/s", "5 electrons/s"),
    ("1 Gy", "1 Sv"),
    ("1 lm", "1 cd"),
    ("0.6 W/mK", "0.6 W/mm"),
    ("5 kg", "5 lbs"),
    ("5 cal", "5 kcal"),
    ("5 kW", "5 kWh"),
    ("1 pm", "1 Pm"),
    ("1 nm", "1 nmi"),
    ("5 S", "5 s"),
    ("5 G", "5 g"),
    ("5 H", "5 h"),
    ("5 T", "5 t"),
    ("1 d", "1 h"),
    ("3 m^2", "3 m"),
    ("1 Nm", "1 nm"),
    ("1 Nm^2", "1 (Nm)^2"),
    ("1 Nm^-1", "1 (N m)^-1"),
    ("5 ms", "5 m s"),
    ("5 kms", "5 km s"),
    ("0.6c", "0.6 cm"),
    ("5 tons", "5 kg"),
    ("30°", "30"),
    ("40%", "40"),
    ("0,250 m", "250 m"),
    ("10 dB", "10"),
    (r"F = 2mg = 40\ \text{N}", "2 mg"),
    ("1.5 GeV", "1.5 MeV"),
]
NONE = [
    r"mg\sin\theta", "", "m", "about five metres", "5 foo", "5 m^99", "1" * 300, "3 m and 4 m", "5 m (downward)",
    "10 ( m", "9e999 m", "5 m^", "12 apples", "5 N to the left", "10 m)", "5 m/", "5 ·", "5 (m", "2 × 3 m", "4 m × 3 m",
    r"1\frac{1}{2}\text{ m}", "5 1/2 m", "3,5 m", "1,2000 m", "0,250 m", r"45^\circ\text{ N}", "10 C°", "25°K",
    r"\frac{1}{0}\text{ m}", "5 m 3 s", "5 m 3", r"5\pm0.1\text{ m}", "t_1 = 3 s, t_2 = 5 s", r"x_{1,2} = 5\text{ m}",
    "5 min = 200 s", "1/f = 5 m", "-v = 5 m/s", r"\sin\theta = 0.5", "5 kt", "5 D", "5 Gs", "5 mb", "5 Cal",
    "5 dollars", "5 units", r"\frac{kg}{s}", r"5\,\frac{\text{m}}{}", "5 < 6 m", "5 Km",
    "20 fl oz", "5 mAs", "5 Wmm", "5 AT", r"\SI{5}{\foo\per\second}",
    r"\SI{5}{\meter\per}", "5 (M☉)^12", "5 m/s (m", "π π m", "1/2/3 m", "3/4π m", "5 m or 6 m",
    "5 k", "5 μ", "5 ° m", "nan m", "inf", "0x10 m", "5 m₂", "5 kgs of ice",
]  # fmt: skip


def says(text: str):
    got = read_quantity(text)
    assert got is not None, text
    return got


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_quantities(a, b):
    one, other = says(a), says(b)
    assert same_quantity(one, other, 0.01)
    assert same_quantity(other, one, 0.01)


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_unequal_quantities(a, b):
    one, other = read_quantity(a), read_quantity(b)
    assert one is None or other is None or not same_quantity(one, other, 0.01)
    assert one is not None or other is not None, "the pair says nothing"


@pytest.mark.parametrize("text", NONE)
def test_no_quantities(text):
    assert read_quantity(text) is None


# -- units by themselves ---------------------------------------------------------------------------------------------

# Powers of m, kg, s, A, K, mol, cd, and the size in those: written here once more, from the SI brochure.
SI = {
    "m": (1, 0, 0, 0, 0, 0, 0, 1), "kg": (0, 1, 0, 0, 0, 0, 0, 1), "s": (0, 0, 1, 0, 0, 0, 0, 1),
    "A": (0, 0, 0, 1, 0, 0, 0, 1), "K": (0, 0, 0, 0, 1, 0, 0, 1), "mol": (0, 0, 0, 0, 0, 1, 0, 1),
    "cd": (0, 0, 0, 0, 0, 0, 1, 1), "g": (0, 1, 0, 0, 0, 0, 0, 1e-3), "N": (1, 1, -2, 0, 0, 0, 0, 1),
    "J": (2, 1, -2, 0, 0, 0, 0, 1), "W": (2, 1, -3, 0, 0, 0, 0, 1), "Pa": (-1, 1, -2, 0, 0, 0, 0, 1),
    "C": (0, 0, 1, 1, 0, 0, 0, 1), "V": (2, 1, -3, -1, 0, 0, 0, 1), "Ω": (2, 1, -3, -2, 0, 0, 0, 1),
    "S": (-2, -1, 3, 2, 0, 0, 0, 1), "F": (-2, -1, 4, 2, 0, 0, 0, 1), "Wb": (2, 1, -2, -1, 0, 0, 0, 1),
    "T": (0, 1, -2, -1, 0, 0, 0, 1), "H": (2, 1, -2, -2, 0, 0, 0, 1), "L": (3, 0, 0, 0, 0, 0, 0, 1e-3),
    "eV": (2, 1, -2, 0, 0, 0, 0, 1.602176634e-19), "bar": (-1, 1, -2, 0, 0, 0, 0, 1e5),
    "cal": (2, 1, -2, 0, 0, 0, 0, 4.184), "Gy": (2, 0, -2, 0, 0, 0, 0, 1),
}  # fmt: skip
PREFIXES = {"": 0, "G": 9, "M": 6, "k": 3, "c": -2, "m": -3, "μ": -6, "n": -9, "p": -12, "f": -15}
AXES = ("length", "mass", "time", "current", "kelvin", "amount", "candela")
names, prefixes = (st.sampled_from(list(table)) for table in (sorted(SI.keys() - {"kg"}), PREFIXES))
factors = st.tuples(names, prefixes, st.integers(-3, 3).filter(bool))
factors = factors.filter(lambda factor: factor[0] != "s" or factor[1] not in ("G", "m"))  # Gs: gauss; ms^-1: a speed
products = st.lists(factors, min_size=1, max_size=4)


def sized(product) -> tuple[float, dict[str, int]]:
    """The size and the dimension of a product of (unit, prefix, power), by the table above alone."""
    size, powers = 1.0, dict.fromkeys(AXES, 0)
    for unit, prefix, power in product:
        size *= (SI[unit][-1] * 10.0 ** PREFIXES[prefix]) ** power
        for axis, own in zip(AXES, SI[unit], strict=False):
            powers[axis] += own * power
    return size, {axis: power for axis, power in powers.items() if power}


def caret(product) -> str:
    return " ".join(f"{prefix}{unit}^{{{power}}}" for unit, prefix, power in product)


def slashed(product) -> str:
    above = "·".join(f"{prefix}{unit}^{power}" for unit, prefix, power in product if power > 0) or "1"
    below = "·".join(f"{prefix}{unit}^{-power}" for unit, prefix, power in product if power < 0)
    return f"{above}/({below})" if below else above


def in_latex(product) -> str:
    def part(sign: int) -> str:
        own = ((f"{prefix}{unit}", sign * power) for unit, prefix, power in product)
        return r" \cdot ".join(rf"\text{{{unit}}}^{{{power}}}" for unit, power in own if power > 0) or "1"

    return rf"\frac{{{part(1)}}}{{{part(-1)}}}"


@pytest.mark.parametrize("write", [caret, slashed])
@settings(deadline=None)
@given(products)
def test_sizes_and_dimensions_are_those_of_the_brochure(write, product):
    size, dimension = sized(product)
    got = says(f"2 {write(product)}")
    assert got.value == pytest.approx(2 * size, rel=1e-9)
    assert {base: int(power) for base, power in got.dimension} == dimension


@settings(deadline=None)
@given(products, products)
def test_what_is_equal_has_one_dimension_and_size(one, other):
    """Quantities compare as the table says, in whatever writing; so nothing unequal is equal."""
    (size, dimension), (other_size, other_dimension) = sized(one), sized(other)
    expected = dimension == other_dimension and math.isclose(size, other_size, rel_tol=0.01)
    assert same_quantity(says(f"1 {caret(one)}"), says(f"1 {slashed(other)}"), 0.01) == expected


@settings(deadline=None)
@given(products, st.floats(0.5, 2), st.integers(-3, 3))
def test_other_values_and_powers_are_other_quantities(product, factor, power):
    of = says(f"1 {caret(product)}")
    assert same_quantity(of, says(f"{factor:.9f} {slashed(product)}"), 0.01) == math.isclose(1, factor, rel_tol=0.01)
    if power:
        assert not same_quantity(of, says(f"1 {caret(product)} K^{power}"), 0.01)


@settings(deadline=None)
@given(products.filter(lambda product: {power > 0 for *_, power in product} == {True, False}))
def test_a_fraction_of_units_in_latex(product):
    assert same_quantity(says(rf"3\,{in_latex(product)}"), says(f"3 {slashed(product)}"), 1e-9)


@settings(deadline=None)
@given(st.floats(1e-6, 1e6), st.sampled_from(["m", "kg", "J", "N m", "m/s^2", "kPa"]))
def test_a_written_value_is_read_back(value, unit):
    got = read_quantity(f"{value:.6e} {unit}")
    assert same_quantity(got, read_quantity(f"{value:.6f} {unit}"), 0.05 if value < 1e-4 else 1e-3)


@settings(deadline=None)
@given(st.floats(1, 10), st.integers(-30, 30))
def test_powers_of_ten_in_every_writing(value, power):
    superscript = str(power).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    number = f"{value:.3f}"
    for written in (
        rf"{number}\times 10^{{{power}}}", f"{number}×10{superscript}", f"{number}e{power}", f"{number} x 10^({power})",
        rf"{number}\cdot10^{{ {power} }}",
    ):  # fmt: skip
        assert says(f"{written} N").value == pytest.approx(float(f"{number}e{power}"), rel=1e-12)


PIECES = [
    *"0123456789.^{}\\()/*·- °μ%=√π⁻²", r"\frac{", r"\sqrt{", r"\SI{", r"\per", r"\text{", r"\times", r"\circ", "10^",
    "m", "kg", "s", "J", "c", "C", "M☉", "per", "square", "squared", "^{-12}",
]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_no_text_breaks_the_reader(text):
    got = read_quantity(text)
    assert got is None or math.isfinite(got.value)
