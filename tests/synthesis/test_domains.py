"""Domains agree by what their answers mean: quantities by value and unit; bands of pass rates, by teacher or model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.run_info import write_run_info
from promptcot_mamba.synthesis import STAGES
from promptcot_mamba.synthesis.distill import Settings, distill
from promptcot_mamba.synthesis.domains import DOMAINS
from promptcot_mamba.synthesis.domains.quantities import read_quantity, same_quantity
from promptcot_mamba.synthesis.stage import Context, settings_from
from promptcot_mamba.synthesis.teacher import ProblemSettings, make_teacher_problem
from tests.synthesis.scripted import ScriptedModel
from tests.synthesis.test_distill import boxed, fenced, make_chain

SAME = [
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
    ("25 °C", r"25^\circ\mathrm{C}"),
    (r"10^{-3}\ \text{m}", "1 mm"),
    ("100 MPa", "1e8 N/m^2"),
    ("50 mL", "50 cm^3"),
    (r"\sqrt{2}\ \mathrm{m}", "1.414 m"),
    (r"2.4 \times 10^{5}~\mathrm{W\,m^{-2}}", "240 kW/m^2"),
    ("x = 5", "5"),
]
APART = [
    ("0.30 m", "0.30"),
    ("1 m", "1 cm"),
    ("1 N", "1 J"),
    ("25 °C", "25 K"),
    ("9.8 m/s", "9.8 m/s^2"),
    ("1 min", "1 m"),
    ("1 mm", "1 Mm"),
    ("-3 m", "3 m"),
    ("1.00 m", "1.02 m"),
]
NONE = [
    r"mg\sin\theta", "", "m", "about five metres", "5 foo", "5 m^99", "1" * 300, "3 m and 4 m", "5 m (downward)",
    "10 ( m", "9e999 m", "5 m^", "12 apples", "5 N to the left",
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), SAME)
def test_equal_quantities(a, b):
    assert same_quantity(read_quantity(a), read_quantity(b), 0.01)


@pytest.mark.parametrize(("a", "b"), APART)
def test_other_quantities(a, b):
    assert not same_quantity(read_quantity(a), read_quantity(b), 0.01)


@pytest.mark.parametrize("text", NONE)
def test_no_quantities(text):
    assert read_quantity(text) is None


@given(st.floats(1e-6, 1e6), st.sampled_from(["m", "kg", "J", "N m", "m/s^2", "kPa"]))
def test_a_written_value_is_read_back(value, unit):
    got = read_quantity(f"{value:.6e} {unit}")
    assert same_quantity(got, read_quantity(f"{value:.6f} {unit}"), 0.05 if value < 1e-4 else 1e-3)


@given(st.text(alphabet="0123456789.^{}\\()/*·- mskgJN°μ%frac", max_size=40))
def test_no_text_breaks_the_reader(text):
    got = read_quantity(text)
    assert got is None or abs(got.value) < float("inf")


def test_physics_chains_agree_by_value_and_unit():
    said = ["0.30 m", r"30\ \mathrm{cm}", r"0.298\ \text{m}", "0.30", "0.45 m", "it depends", "3 m"]
    chains = [make_chain("p", i, boxed(text), "physics") for i, text in enumerate(said)]
    rows, outcomes = distill(chains, Settings(threshold=3 / 7, keep=3))
    assert outcomes == {"kept": 1}
    assert [row["key"] for row in rows] == ["p/0", "p/1", "p/2"]
    assert (rows[0]["answer"], rows[0]["domain"], rows[0]["agreement"]) == ("0.30 m", "physics", 3 / 7)
    assert "with its unit" in rows[0]["prompt"]


def test_each_domain_says_what_a_problem_needs():
    row = {"key": "k", "problem": "p", "concepts": [], "level": "l", "inputs": ["1\n"]}
    for name, domain in DOMAINS.items():
        problem = make_teacher_problem(row, ProblemSettings(name))
        assert problem["domain"] == name
        assert domain.instruction in problem["prompt"]
        assert ("inputs" in problem) == (name == "code")


# -- bands ----------------------------------------------------------------------------------------------------------


def rate_chains(name: str, right: int, of: int = 8) -> list[dict]:
    return [make_chain(name, i, boxed(1 if i < right else 100 + i)) for i in range(of)]


def test_a_band_of_agreement_drops_what_is_too_easy_and_too_hard():
    chains = [chain for right in range(1, 9) for chain in rate_chains(f"p{right}", right)]
    rows, outcomes = distill(chains, Settings(threshold=0.1, keep=[0.25, 0.75], chains=2))
    assert outcomes == {"kept": 5, "too hard": 1, "too easy": 2}
    assert [row["key"] for row in rows][:2] == ["p2/0", "p2/1"]
    assert distill(chains, Settings(threshold=0.1))[1] == {"kept": 8}, "without a band as before"


@pytest.mark.parametrize(
    "values",
    [{"keep": [0.8, 0.1]}, {"keep": [0.1]}, {"keep": [0.1, 1.2]}, {"keep": ["a", "b"]}, {"keep": [0.1, 0.8, 0.9]},
     {"keep": [0.1, 0.3]}, {"keep": "0.1-0.8"}, {"keep": 1.5}, {"keep": True}, {"chains": 2},
     {"keep": [0.1, 0.9], "chains": 0}],
)  # fmt: skip
def test_wrong_bands_are_refused(values):
    with pytest.raises(InputError, match=r"keep|chains"):
        Settings(**values)


def write_distilled(folder: Path, rows: list[dict]) -> None:
    write_jsonl(folder / "distilled.jsonl", rows)
    write_run_info(folder / "distilled.jsonl", {"seed": 0}, complete=True)


def run_difficulty(folder: Path, answers: dict, **values) -> Context:
    models = {name: ScriptedModel(reply, name=name) for name, reply in answers.items()}
    context = Context(folder, 0, models.__getitem__)
    settings_class, function = STAGES["difficulty"].load()
    function(settings_from(settings_class, {"models": list(answers), **values}, "difficulty"), context)
    return context


def test_difficulty_by_model(tmp_path):
    """Question i is solved by `weak` in i of 4 tries, about; by `strong` always."""
    chains = [make_chain(f"p{i}", run, boxed(i)) for i in range(3) for run in range(2)]
    write_distilled(tmp_path, distill(chains, Settings(keep=2))[0])

    def weak(prompt: str, seed: int) -> str:
        number = int(prompt.partition("Problem p")[2][0])
        return boxed(number if (number == 1 and seed % 2) or number == 2 else 99)

    def strong(prompt: str, seed: int) -> str:
        return f"<think>\nhm\n</think>\n{boxed(prompt.partition('Problem p')[2][0])}"

    context = run_difficulty(tmp_path, {"weak": weak, "strong": strong}, samples=8)
    kept = context.read("in_band")
    assert [row["key"] for row in kept] == ["p1/0", "p1/1"]
    assert kept[0]["pass_rates"]["strong"] == 1
    assert 0 < kept[0]["pass_rates"]["weak"] < 1
    lost = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "in_band.rejected.jsonl")}
    assert lost == {"p0": "too hard", "p2": "too easy"}
    info = json.loads((tmp_path / "in_band.run.json").read_text())
    assert (info["problems"], info["problems: kept"]) == (3, 1)
    assert len({request.seed for request in context.model("weak").backend.asked}) == 24
    settings_class, report = STAGES["report"].load()
    report(settings_class(), context)
    text = (tmp_path / "report.md").read_text()
    assert "| strong | 3 | 100.0 | 0 | 3 |" in text
    assert "1 problems in the band" in text


def test_difficulty_of_code_and_physics_is_checked_as_their_domains_do(tmp_path):
    tests = [{"input": "1\n", "output": "2"}, {"input": "5\n", "output": "6"}]
    rows = [
        {"key": "c/0", "question": "Add one.", "domain": "code", "tests": tests, "prompt": "", "completion": ""},
        {"key": "f/0", "question": "How far?", "domain": "physics", "answer": "0.30 m", "prompt": "", "completion": ""},
    ]
    write_distilled(tmp_path, rows)

    def student(prompt: str, seed: int) -> str:
        if "Add one" in prompt:
            return fenced("print(int(input()) + 1)" if seed % 2 else "print(2)")
        return boxed("30 cm" if seed % 2 else "30 m")

    context = run_difficulty(tmp_path, {"student": student}, samples=8, keep=[0.05, 0.95], workers=1)
    rates = {row["key"]: row["pass_rates"]["student"] for row in context.read("in_band")}
    assert set(rates) == {"c/0", "f/0"}
    for row in context.read("tries_student"):
        assert row["passed"] == ("+ 1" in row["reply"] or "30 cm" in row["reply"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"keep": [0.9, 0.1]}, r"difficulty: keep \[0.9, 0.1\]: expected two rates"),
        ({"samples": 0}, "samples 0"),
        ({"keep": 0.5}, "keep 0.5: expected two rates"),
        ({"models": "student"}, "expected a list of one or more"),
        ({"by": "other"}, "by 'other': is none of the models student"),
        ({}, r"distilled\.jsonl: no such file"),
    ],
)
def test_wrong_settings_of_difficulty_are_named(tmp_path, values, said):
    with pytest.raises(InputError, match=said):
        run_difficulty(tmp_path, {"student": lambda prompt, seed: ""}, **values)


def test_tries_that_are_cut_fail(tmp_path):
    write_distilled(tmp_path, distill([make_chain("p1", run, boxed(1)) for run in range(2)], Settings())[0])
    with pytest.raises(InputError, match="no rows survived"):
        run_difficulty(tmp_path, {"m": lambda prompt, seed: "x" * 100 + boxed(1)}, samples=2, max_tokens=20)
    assert read_jsonl(tmp_path / "in_band.rejected.jsonl")[0]["pass_rates"] == {"m": 0.0}
