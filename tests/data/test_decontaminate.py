"""Contamination: problems are found however they are respelled or reworded a little, and clean questions stay."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.data.decontaminate import BenchmarkText, Decontaminator
from promptcot_mamba.data.words import gist_signs, gist_words, symbol_words
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl
from scripts.bench.decontaminate import read_problems, setting_of
from scripts.bench.paraphrase import KINDS, REQUIRED, make_template
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
    ("prompt", "problem"),
    [
        (LONG, "l"),
        (LONG.upper(), "l"),
        ("As an exercise: " + LONG.replace(" ", "  \n") + " Explain.", "l"),
        (LONG.replace("\\left", "").replace("\\right", "").replace("\\frac", "\\dfrac").replace("$", "$$"), "l"),
        (LONG.replace("x^4y^3z^2", "x^{4} \\, y^{3} \\; z^{2}").replace("x,y", "x, y"), "l"),
        (LONG.replace(",", " ,").replace(";", " -").rstrip("."), "l"),
        (LONG.replace("x", "p").replace("y", "q").replace("z", "r"), "l"),
        (LONG.replace("positive", "nonnegative").replace("lowest", "simplest"), "l"),
        ("Question. " + MIDDLE + " Show all of them.", "m"),
        ("how many positive divisors, does the number 2024 have", "m"),
        ("How many positive divisors does the number two thousand and twenty-four have?", "m"),
        ("compute $ \\sin 60 ^ {\\circ} $", "s"),
        ("Compute sin 60 degrees.", "s"),
        ("C\u043empute $\\sin 60^\\circ$.", "s"),
        (SHORT + "\nPlease reason step by step, and put your final answer within \\boxed{}.", "s"),
    ],
)
def test_disguised_problems_are_caught(checker, prompt, problem):
    hit, _ = checker.check(prompt)
    assert hit is not None
    assert (hit.problem, hit.kind) == (problem, "prompt")
    assert 0.3 <= hit.share <= 1
    assert hit.alike > 70
    assert set(hit.shared.split()) <= {*gist_signs(prompt), "..."}


@pytest.mark.parametrize(
    "prompt",
    [
        "How many positive divisors does the number 2025 have?",
        "Compute $\\sin 60^\\circ + \\cos 60^\\circ$.",
        "Compute $\\cos 60^\\circ$.",
        "Let $x,y$ and $z$ be positive real numbers that satisfy $x + y + z = 1$; find the least value of $xyz$.",
        LONG.replace("2", "5").replace("3", "7").replace("4", "6"),  # the template with other numbers
        "",
    ],
)
def test_other_questions_are_clean(checker, prompt):
    assert checker.check(prompt)[0] is None


def test_what_shares_a_part_is_reported_and_kept(checker):
    hit, near = checker.check(
        "Let $x,y$ and $z$ be positive real numbers that satisfy $\\log_2 x = 7 y + 3 z - 9$; find $x$."
    )
    assert hit is None
    assert [(found.problem, found.kind) for found in near] == [("l", "prompt")]
    assert near[0].share >= 0.3


def test_a_problem_restated_in_an_answer_is_found(checker):
    thought = " ".join(random.Random(0).choices(BASE, k=3000))
    assert checker.check_completion(f"<think>\n{thought}\n</think>\nDone.") is None
    hit = checker.check_completion(f"<think>\nSo the question says: {LONG}\n{thought}\n</think>\nDone.")
    assert (hit.problem, hit.kind) == ("l", "completion")


def test_what_many_problems_share_is_evidence_against_nobody():
    rng = random.Random(0)
    phrase = "The input is given from Standard Input in the following format where every line ends in a newline"
    texts = [f"{' '.join(rng.choices(BASE, k=30))}. {phrase}. {' '.join(rng.choices(BASE, k=9))}" for _ in range(6)]
    checker = Decontaminator([BenchmarkText("b", str(number), text) for number, text in enumerate(texts)])
    assert checker.check(f"{' '.join(rng.choices(BASE, k=30))}. {phrase}.")[0] is None
    for text in texts:
        assert checker.check(text)[0] is not None


def test_what_the_corpus_says_all_the_time_is_no_evidence_and_copies_do_not_make_a_problem_common():
    rng = random.Random(0)
    story = "A shop sells apples and pears in boxes of equal weight and a driver takes {} boxes to the market on Monday"
    problem = f"{story.format(12)}. {' '.join(rng.choices(BASE, k=6))}?"
    others = [f"{story.format(rng.randint(100, 999))}. {' '.join(rng.choices(BASE, k=25))}?" for _ in range(50)]
    alone = Decontaminator([BenchmarkText("b", "0", problem)])
    told = Decontaminator([BenchmarkText("b", "0", problem)], [*others, *[problem] * 40])
    assert alone.check(others[0])[1]
    assert not told.check(others[0])[1]
    assert told.check(problem)[0].share == 1


def test_words_without_variables_layout_and_spelling():
    assert gist_words("Ann paid $5 more than $1{,}234") == ["ann", "paid", "5", "more", "than", "1234"]
    assert gist_words("three hundred and forty-two, five") == gist_words("342, 5")
    assert gist_words("twenty, three and thirty one") == ["20", "3", "and", "31"]
    assert gist_signs("$\\frac{x}{2} \\leq y$") == gist_signs("(a)/(2) <= b") == ["v", "2", "v"]
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


FILES = ("aime_test", "math500", "livecodebench_test", "olympiadbench_oe_to_maths_en")


@pytest.fixture(scope="module")
def published() -> list[BenchmarkText]:
    if "PROMPTCOT_BENCHMARKS" not in os.environ:
        pytest.skip("PROMPTCOT_BENCHMARKS is not set: no published problems")
    shared = Path(os.environ["PROMPTCOT_BENCHMARKS"])
    return [
        BenchmarkText(name, str(number), row.get("question") or extract_question(row["prompt"]))
        for name in FILES
        for number, row in enumerate(read_jsonl(shared / f"{name}.jsonl"))
    ]


@pytest.mark.parametrize("seed", [11, 12])
def test_published_problems_are_found_in_every_kind_of_disguise(published, seed):
    rng = random.Random(seed)
    checker = Decontaminator(published, [make_template(rng) for _ in range(500)])
    chosen = rng.sample(published, 200)
    for kind, change in KINDS.items():
        found = sum(checker.check(change(problem.text, rng))[0] is not None for problem in chosen)
        assert found >= REQUIRED[kind] * len(chosen), (kind, found)
    assert sum(checker.check(make_template(rng))[0] is not None for _ in range(300)) <= 1


def test_clean_problems_are_lost_to_one_another_hardly_ever(published):
    """Leave a quarter out: what of it is taken for a problem of the rest, siblings of one setting aside."""
    lost: Counter[str] = Counter()
    for fold in range(4):
        checker = Decontaminator([problem for number, problem in enumerate(published) if number % 4 != fold])
        settings = {setting_of(problem) for problem in checker.problems} - {None}
        for problem in published[fold::4]:
            if setting_of(problem) in settings:
                continue  # another part of the same problem: its setting is there word for word
            lost[problem.benchmark] += checker.check(problem.text)[0] is not None
    sizes = Counter(problem.benchmark for problem in published)
    assert lost["livecodebench_test"] <= 0.01 * sizes["livecodebench_test"]
    maths = [name for name in FILES if name != "livecodebench_test"]
    assert sum(lost[name] for name in maths) <= 0.005 * sum(sizes[name] for name in maths)


def test_the_stopwatch_does_not_go_on_with_fewer_files(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"question": "What is two and two?"}\n')
    assert [problem.text for problem in read_problems(tmp_path, ["a.jsonl"])] == ["What is two and two?"]
    with pytest.raises(InputError, match=r"--benchmark_dir .*: b\.jsonl missing; --files"):
        read_problems(tmp_path, ["a.jsonl", "b.jsonl"])
