"""Domains agree by what their answers mean: quantities by value and unit; bands of pass rates, by teacher or model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.run_info import write_run_info
from promptcot_mamba.synthesis import STAGES
from promptcot_mamba.synthesis.distill import Settings, distill, settle_problems
from promptcot_mamba.synthesis.domains import DOMAINS
from promptcot_mamba.synthesis.stage import Context, settings_from
from promptcot_mamba.synthesis.teacher import ProblemSettings, make_teacher_problem
from tests.synthesis.scripted import ScriptedModel
from tests.synthesis.test_distill import boxed, fenced, make_chain


def test_physics_chains_agree_by_value_and_unit():
    said = ["0.30 m", r"30\ \mathrm{cm}", r"0.298\ \text{m}", "0.30", "0.45 m", "it depends", "3 m"]
    chains = [make_chain("p", i, boxed(text), "physics") for i, text in enumerate(said)]
    rows, outcomes = distill(chains, Settings(threshold=3 / 7, keep=3))
    assert outcomes == {"kept": 1}
    assert [row["key"] for row in rows] == ["p/0", "p/1", "p/2"]
    assert (rows[0]["answer"], rows[0]["domain"], rows[0]["agreement"]) == ("0.30 m", "physics", 3 / 7)
    assert "with its unit" in rows[0]["prompt"]


def test_answers_that_no_domain_understands_are_counted_by_problem():
    said = ["5 foo", "about five", "0.30 m", r"5\,\text{m}\;(\text{up})"]
    chains = [make_chain("p", i, boxed(text), "physics") for i, text in enumerate(said)]
    chains += [make_chain("q", i, boxed("2 N"), "physics") for i in range(2)]
    settled = list(settle_problems(chains, Settings()))
    assert [(each.problem, each.outcome, each.unread) for each in settled] == [
        ("p", "no majority", 3),
        ("q", "kept", 0),
    ]


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
