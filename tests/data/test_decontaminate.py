"""Contamination: every disguise of a benchmark problem is caught, boilerplate and short phrases catch nobody."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.data.decontaminate import BenchmarkText, Decontaminator
from promptcot_mamba.data.words import content_words, symbol_words
from promptcot_mamba.jsonl import read_jsonl
from tests.data.planted import BASE, disguise, make_problems

LONG = (
    "Let $x,y$ and $z$ be positive real numbers that satisfy $\\log_2\\left({x \\over yz}\\right) = \\frac{1}{2}$; "
    "find the value of $\\left|\\log_2(x^4y^3z^2)\\right|$ as a fraction in lowest terms."
)
MIDDLE = "How many positive divisors does the number 2024 have?"
SHORT = "Compute $\\sin 60^\\circ$."


@pytest.fixture(scope="module")
def checker() -> Decontaminator:
    return Decontaminator([BenchmarkText("b", name, text) for name, text in (("l", LONG), ("m", MIDDLE), ("s", SHORT))])


@pytest.mark.parametrize(
    ("prompt", "problem", "kind"),
    [
        (LONG, "l", "13-gram"),
        (LONG.upper(), "l", "13-gram"),
        ("As an exercise: " + LONG.replace(" ", "  \n") + " Explain.", "l", "13-gram"),
        (
            LONG.replace("\\left", "").replace("\\right", "").replace("\\frac", "\\dfrac").replace("$", "$$"),
            "l",
            "13-gram",
        ),
        (LONG.replace("x^4y^3z^2", "x^{4} \\, y^{3} \\; z^{2}").replace("x,y", "x, y"), "l", "13-gram"),
        (LONG.replace(",", " ,").replace(";", " -").rstrip("."), "l", "13-gram"),
        ("Question. " + MIDDLE + " Show all of them.", "m", "whole"),
        ("how many positive divisors, does the number 2024 have", "m", "whole"),
        ("compute $ \\sin 60 ^ {\\circ} $", "s", "whole"),
        (SHORT + "\nPlease reason step by step, and put your final answer within \\boxed{}.", "s", "whole"),
    ],
)
def test_disguised_problems_are_caught(checker, prompt, problem, kind):
    hit, _ = checker.check(prompt)
    assert hit is not None
    assert (hit.problem, hit.kind) == (problem, kind)


@pytest.mark.parametrize(
    "prompt",
    [
        "How many positive divisors does the number 2025 have?",
        "Compute $\\sin 60^\\circ + \\cos 60^\\circ$.",
        "Let $x,y$ and $z$ be positive real numbers that satisfy $x + y + z = 1$; find the least value of $xyz$.",
        "",
    ],
)
def test_other_questions_are_clean(checker, prompt):
    assert checker.check(prompt)[0] is None


def test_eight_shared_words_are_reported_and_kept(checker):
    hit, near = checker.check("Let $x,y$ and $z$ be positive real numbers that satisfy $x + y + z = 1$; find $xyz$.")
    assert hit is None
    assert [(found.problem, found.kind) for found in near] == [("l", "8-gram")]


def test_what_many_problems_share_is_evidence_against_nobody():
    rng = random.Random(0)
    phrase = "The input is given from Standard Input in the following format where every line ends in a newline"
    texts = [f"{' '.join(rng.choices(BASE, k=30))}. {phrase}. {' '.join(rng.choices(BASE, k=9))}" for _ in range(6)]
    checker = Decontaminator([BenchmarkText("b", str(number), text) for number, text in enumerate(texts)])
    assert checker.check(f"{' '.join(rng.choices(BASE, k=30))}. {phrase}.")[0] is None
    for text in texts:
        assert checker.check(text)[0] is not None


def test_prices_are_no_formulas():
    text = "Ann paid $5 more than Bob and promised to bring $3 tomorrow"
    assert " ".join(content_words(text)) == "ann paid 5 more than bob and promised to bring 3 tomorrow"
    assert content_words("$xy$ $ x\\,y $ \\sin x") == ["x", "y", "x", "y", "sin", "x"]
    assert symbol_words("x+y") != symbol_words("x-y")


def test_random_problems_in_random_disguise_are_all_caught_and_no_other_text():
    rng = random.Random(5)
    problems = make_problems(rng, 200)
    checker = Decontaminator(problems)
    for problem in problems:
        hit, _ = checker.check(disguise(problem.text, rng))
        assert hit is not None, problem
    for _ in range(500):
        assert checker.check(" ".join(rng.choices(BASE, k=rng.randint(5, 80))))[0] is None


def test_published_benchmarks_catch_themselves_and_hardly_one_another():
    if "PROMPTCOT_BENCHMARKS" not in os.environ:
        pytest.skip("PROMPTCOT_BENCHMARKS is not set: no published problems")
    shared = Path(os.environ["PROMPTCOT_BENCHMARKS"])
    texts = {
        name: [extract_question(row["prompt"]) for row in read_jsonl(shared / f"{name}.jsonl")]
        for name in ("aime_test", "math500", "livecodebench_test")
    }
    problems = [BenchmarkText(name, str(n), text) for name, own in texts.items() for n, text in enumerate(own)]
    checker = Decontaminator(problems)
    rng = random.Random(0)
    assert all(checker.check(problem.text.upper().replace(" ", rng.choice(["  ", "\n"])))[0] for problem in problems)
    math_only = Decontaminator([problem for problem in problems if problem.benchmark != "livecodebench_test"])
    assert sum(math_only.check(text)[0] is not None for text in texts["livecodebench_test"]) == 0
