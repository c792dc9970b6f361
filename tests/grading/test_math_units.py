"""Units of measure: what is known of each, and that two which are not the same size never pass for each other."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import pytest

from promptcot_mamba.grading.math.gold import Gold
from promptcot_mamba.grading.math.strict import grade
from promptcot_mamba.grading.math.tables import words
from promptcot_mamba.grading.math.units import is_unit_word, measure

UNITS = words(
    "m km nm s ms h day year decade kg g ton lb L mL gallon quart pint J kJ eV keV N W MW mW Pa kPa atm bar V A mA T K"
    " mol Hz MHz ohm acre dollar dime nickel inch degree AU dB byte bit m/s km/h m^2 m/s^2 kg/m^3 J/K V/m mol/L"
    " rpm revolution"
)


def test_another_unit_is_another_answer():
    for gold, answer in permutations(UNITS, 2):
        assert measure(gold) != measure(answer), (gold, answer)
        assert not grade(Gold(rf"5\text{{ {gold}}}"), rf"5\text{{ {answer}}}").equal, (gold, answer)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_may_be_left_out_added_or_set_otherwise(unit: str):
    gold = Gold(rf"5\text{{ {unit}}}")
    assert grade(gold, "5").equal
    assert grade(Gold("5"), rf"5\text{{ {unit}}}").equal
    assert grade(gold, rf"5\,\mathrm{{{unit}}}").equal


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [
        ("kWh", "J", 3_600_000),
        ("N m", "J", 1),
        ("kg m s^-2", "N", 1),
        ("V A", "W", 1),
        ("W s", "J", 1),
        ("C/s", "A", 1),
        ("V/A", "ohm", 1),
        ("Wb/m^2", "T", 1),
        ("micrometers", "nm", 1000),
        ("μm", "um", 1),
        ("megahertz", "MHz", 1),
        ("milliliters", "cm^3", 1),
        ("mm^2", "m^2", Fraction(1, 10**6)),
        ("square kilometers", "hectares", 100),
        ("gallons", "cups", 16),
        ("years", "months", 12),
        ("electron volts", "eV", 1),
        ("MiB", "byte", 2**20),
        ("Gyr", "yr", 10**9),
        ("rpm", "revolutions / s", Fraction(1, 60)),
        ("km/h", "m/s", Fraction(5, 18)),
    ],
)
def test_sizes(one: str, other: str, ratio: Fraction | int):
    first, second = measure(one), measure(other)
    assert first is not None
    assert second is not None
    assert first[0] == second[0]
    assert first[1] == ratio * second[1]


@pytest.mark.parametrize("letters", words("nm mV pV ms ps ha pc ly mol_ ab xy kt dm"))
def test_letters_side_by_side_stay_factors(letters: str):
    """`2nm` is a product, in whichever order; only what nobody writes as one is a unit without a macro."""
    assert not is_unit_word(letters)
    assert measure("apples") is None
