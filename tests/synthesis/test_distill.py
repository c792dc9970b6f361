"""Chains kept by agreement: right far more often than one chain, in maths and in code; what must not be kept is not."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from promptcot_mamba.data.adapters import get_adapter
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import write_jsonl
from promptcot_mamba.quickstart.programs import READING, make_tests
from promptcot_mamba.quickstart.splits import draw_training_rows
from promptcot_mamba.synthesis.code_agreement import keep_working, observe_programs
from promptcot_mamba.synthesis.code_inputs import parse_inputs
from promptcot_mamba.synthesis.distill import Settings, distill, read_chains, run
from promptcot_mamba.synthesis.replies import Rejected
from promptcot_mamba.synthesis.stage import Context
from promptcot_mamba.synthesis.teacher import ProblemSettings, make_teacher_problem

N = 8


def make_chain(name: str, run: int, answer: str, domain: str = "math", **fields) -> dict:
    """A sample as the sampling program writes it, of a chain that ends in this answer."""
    problem = make_teacher_problem(
        {"key": name, "problem": f"Problem {name}?", "concepts": [], "level": "easy", "inputs": ["1\n"]},
        ProblemSettings(domain),
    )
    completion = f"<think>\nattempt {run}\n</think>\n{answer}"
    sample = {"run": run, "completion": completion, "finish_reason": "stop", "completion_tokens": 10}
    return {**problem, **sample, "format_valid": True, **fields}


def boxed(value: object) -> str:
    return f"So it is \\boxed{{{value}}}."


def simulate_teacher(problems: int, seed: int) -> Iterator[tuple[dict, bool]]:
    """Chains on the quickstart's composed problems, and whether each is right.

    Problems differ in difficulty; two errors in five are one tempting wrong answer, the rest scatter about the truth.
    """
    rng = random.Random(seed)
    for number, row in enumerate(draw_training_rows({"quickstart_composed": problems}, "test", seed)):
        gold = int(row["completion"].rpartition("{")[2].partition("}")[0])
        skill, tempting = rng.betavariate(4, 1.8), gold + rng.choice((-10, 10, 1))
        for attempt in range(N):
            right = rng.random() < skill
            wrong = tempting if rng.random() < 0.4 else gold + rng.choice([d for d in range(-30, 31) if d])
            yield make_chain(f"p{number}", attempt, boxed(gold if right else wrong), gold=gold), right


def test_the_majority_is_right_where_single_chains_often_are_not():
    simulated = list(simulate_teacher(300, seed=1))
    gold = {chain["id"]: str(chain["gold"]) for chain, _ in simulated}
    single = sum(right for _, right in simulated) / len(simulated)
    rows, outcomes = distill([chain for chain, _ in simulated], Settings())
    precision = sum(row["answer"] == gold[row["key"].partition("/")[0]] for row in rows) / len(rows)
    assert single < 0.85
    assert precision >= 0.95
    assert outcomes["kept"] == len(rows) > 150
    assert outcomes.total() == 300


def test_agreement_counts_every_sample_and_keeps_the_first_of_the_majority():
    chains = [make_chain("p", i, boxed(text)) for i, text in enumerate(["3", "1/2", "0.5", r"\frac{1}{2}"])]
    rows, _ = distill(chains, Settings(threshold=0.75, keep=2))
    assert [(row["key"], row["answer"], row["agreement"]) for row in rows] == [
        ("p/1", "1/2", 0.75),
        ("p/2", "0.5", 0.75),
    ]
    assert distill(chains, Settings(threshold=0.76)) == ([], {"no majority": 1})


@pytest.mark.parametrize(
    "unusable",
    [{"finish_reason": "length"}, {"format_valid": False}, {"completion_tokens": 11}, {"completion": "<think>\nhm\n"}],
)
def test_unusable_chains_are_not_counted_for_an_answer(unusable):
    chains = [make_chain("p", 0, boxed(1)), *(make_chain("p", i, boxed(2), **unusable) for i in (1, 2, 3))]
    assert distill(chains, Settings(max_tokens=10))[1] == {"no majority": 1}
    assert distill(chains[1:], Settings(max_tokens=10))[1] == {"no usable chain": 1}


def test_rows_go_into_data_preparation():
    rows, _ = distill([make_chain("p", i, boxed(7)) for i in range(3)], Settings())
    converted = get_adapter("synthesis").convert(rows[0], None)
    assert (converted.prompt, converted.gold, converted.domain) == ("Problem p?", "7", "math")
    assert converted.completion == rows[0]["completion"]


# -- code -----------------------------------------------------------------------------------------------------------


def fenced(program: str) -> str:
    return f"```python\n{program}\n```"


def simulate_programmer(problems: int, seed: int) -> Iterator[tuple[dict, bool]]:
    """Programs for the quickstart's composed code problems: right ones, one with a step left out, one that raises."""
    rng = random.Random(seed)
    for number, row in enumerate(draw_training_rows({"quickstart_code_composed": problems}, "test", seed)):
        program = row["completion"].partition("```python\n")[2].partition("\n```")[0]
        tests = make_tests(rng, program)
        if tests is None:
            continue
        lines = program.split("\n")
        skipped = rng.randrange(len(READING), len(lines) - 1)
        shorter = "\n".join(lines[:skipped] + lines[skipped + 1 :])
        for attempt in range(6):
            right = rng.random() < 0.7
            said = f"# {attempt}\n{program}" if right else rng.choice([shorter, "raise SystemError", "print(0)"])
            inputs = [*tests["inputs"][:3], "no number\n"]
            yield make_chain(f"c{number}", attempt, fenced(said), "code", inputs=inputs, reference=program), right


def test_programs_agree_by_what_they_print():
    simulated = list(simulate_programmer(12, seed=3))
    right = {f"{chain['id']}/{chain['run']}" for chain, right in simulated if right}
    single = len(right) / len(simulated)
    rows, outcomes = distill([chain for chain, _ in simulated], Settings(workers=2))
    assert single < 0.85
    assert outcomes["kept"] == len(rows) >= 6
    assert sum(row["key"] in right for row in rows) / len(rows) >= 0.95
    for row in rows:
        assert len(row["tests"]) == 3  # the input that no program can read is left out
        assert row["domain"] == "code"
        assert get_adapter("synthesis").convert(row, None).domain == "code"


def test_one_program_is_run_once_and_prose_never():
    chains = [
        make_chain("c", 0, fenced("print(int(input()) + 1)"), "code"),
        make_chain("c", 1, fenced("print(1 + int(input()), ' ')"), "code"),
        make_chain("c", 2, "I would add one.", "code"),
        make_chain("c", 3, fenced("import os; os.abort()"), "code"),
    ]
    assert observe_programs(chains, workers=1) == {("c", 0): ("2",), ("c", 1): ("2",)}


def test_inputs_on_which_most_programs_fail_are_left_out():
    prints = {("c", 0): ("1", None), ("c", 1): ("1", None), ("c", 2): (None, "5"), ("c", 3): ("", None)}
    assert keep_working(prints) == {("c", 0): ("1", None), ("c", 1): ("1", None)}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("```\n1 2\n```\nand\n```text\n\n3\n```", ["1 2\n", "3\n"]),
        ("<think>\n```\n9\n```\n</think>\n```\n1\n```\n```\n2\n```", ["1\n", "2\n"]),
        ("```\n1\n```", "not 2"),
        ("```\n1\n```\n```\n2\n```\n```\n3\n```", "not 2"),
        ("```\n1\n```\n```\n2", "not 2"),
        ("```\n1\n```\n```\n1\n\n```", "empty or repeated"),
        ("```\n1\n```\n```\n```", "empty or repeated"),
        ("1 2", "not 2"),
    ],
)
def test_inputs_are_parsed_strictly(reply, expected):
    got = parse_inputs(reply, 2)
    if isinstance(expected, list):
        assert got == {"inputs": expected}
    else:
        assert isinstance(got, Rejected)
        assert expected in got.reason


# -- bad input ------------------------------------------------------------------------------------------------------


def write_work(folder, chains: list[dict]) -> Context:
    problems = {chain["id"]: {name: chain[name] for name in ("id", "prompt", "question")} for chain in chains}
    write_jsonl(folder / "teacher_problems.jsonl", problems.values())
    write_jsonl(folder / "chains.jsonl", chains)
    return Context(folder, 0, lambda name: None)


def test_a_repeated_run_and_foreign_problems_are_named(tmp_path):
    chains = [make_chain("p", 0, boxed(1)), make_chain("q", 0, boxed(1))]
    with pytest.raises(InputError, match=r"chains\.jsonl: problem 'p' has run 0 twice"):
        read_chains(write_work(tmp_path, [*chains, chains[0]]))
    context = write_work(tmp_path, chains)
    write_jsonl(tmp_path / "chains.jsonl", chains[:1])
    with pytest.raises(InputError, match=r"chains\.jsonl: its problems are not those of teacher_problems"):
        read_chains(context)


def test_no_majority_anywhere_stops_with_counts(tmp_path):
    context = write_work(tmp_path, [make_chain("p", i, boxed(i)) for i in range(4)])
    with pytest.raises(InputError, match=r"distilled\.jsonl: no rows survived .*chains 4, problems: no majority 1\)"):
        run(Settings(), context)


@pytest.mark.parametrize("values", [{"threshold": 0}, {"threshold": 1.1}, {"keep": 0}])
def test_bad_settings(values):
    with pytest.raises(InputError, match="threshold"):
        Settings(**values)
    with pytest.raises(InputError, match="domain 'chemistry'"):
        ProblemSettings("chemistry")
