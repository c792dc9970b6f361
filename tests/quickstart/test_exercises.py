"""The quickstart's exercises: solutions that are right, tests that bite, sides that never mix."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml

from promptcot_mamba.chat_format import is_format_valid, with_open_thought
from promptcot_mamba.data.dedup import normal_form
from promptcot_mamba.data.mixture import MixturePlan, count_targets
from promptcot_mamba.data.sources import parse_sources
from promptcot_mamba.errors import InputError
from promptcot_mamba.quickstart import arithmetic, programs
from promptcot_mamba.quickstart.concepts import CONCEPTS, LIMIT
from promptcot_mamba.quickstart.exercise import links_of
from promptcot_mamba.quickstart.splits import (
    SOURCES,
    draw_test_rows,
    draw_training_rows,
    hash_tests,
    is_held_out,
)
from promptcot_mamba.run_info import ROOT

TRUTH = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "mod": lambda x, y: x % y,
    "digit_sum": lambda x: sum(map(int, str(x))),
    "larger": max,
    "smaller": min,
}
PARTS = dict.fromkeys(SOURCES, 15)
TRAINING = {name: 40 for name, source in SOURCES.items() if not source.unseen}


@pytest.mark.parametrize("name", CONCEPTS)
def test_the_work_ends_in_the_true_value_and_every_equation_in_it_holds(name: str):
    rng = random.Random(0)
    for _ in range(300):
        value = rng.randint(0, LIMIT)
        operands = CONCEPTS[name].draw(rng, value)
        if operands is None:
            continue
        numbers = [value if operand is None else operand for operand in operands]
        result, work = CONCEPTS[name].work(*numbers)
        assert result == TRUTH[name](*numbers), numbers
        assert work.endswith(f"[{result}]")
        for step in work.replace("mod", "%").split(";"):
            claim = step.split("[")[0].replace("=", "==").strip()
            assert eval(claim) or "=" not in claim, work


def test_a_chain_says_its_values_in_order():
    exercise = arithmetic.make_chain(random.Random(3), ("add", "digit_sum", "multiply"))
    names = re.findall(r"Let (\w) be", exercise.question)
    assert exercise.question.endswith(f"Find {names[-1]}.")
    values = [re.findall(rf"^{name} = (\d+)$", exercise.thought, re.MULTILINE) for name in names]
    assert [len(found) for found in values] == [1, 1, 1]
    assert values[-1] == [exercise.result]
    assert f"\\boxed{{{exercise.result}}}" in exercise.answer


def test_a_program_that_leaves_a_step_out_fails_its_tests():
    rng = random.Random(5)
    checked = 0
    for _ in range(100):
        exercise = programs.make_program(rng, programs.draw_kinds(rng, composed=True))
        tests = programs.make_tests(rng, exercise.result)
        if tests is None:
            continue
        checked += 1
        steps = exercise.result.splitlines()[len(programs.READING) :]
        numbers = [[int(word) for word in text.split()] for text in tests["inputs"]]
        assert [programs.run_lines(steps, xs) for xs in numbers] == tests["outputs"]
        for skipped in range(len(steps)):
            fewer = steps[:skipped] + steps[skipped + 1 :]
            assert [programs.run_lines(fewer, xs) for xs in numbers] != tests["outputs"]
    assert checked > 50


def test_held_out_questions_and_links_never_train():
    trained = draw_training_rows(TRAINING, "phase2", seed=1)
    tested, _ = draw_test_rows(PARTS, seed=1)
    questions = {row["prompt"] for row in trained}
    assert len(trained) == sum(TRAINING.values())
    assert not questions & {row["prompt"] for row in tested}
    assert len({row["prompt"] for row in tested}) == len(tested) == sum(PARTS.values())
    for row in tested:
        held_out = links_of(tuple(row["kinds"])) & (arithmetic.HELD_OUT_LINKS | programs.HELD_OUT_LINKS)
        assert bool(held_out) == SOURCES[row["source"]].unseen


def test_training_shows_no_held_out_link():
    words = {name: re.escape(concept.words).replace(r"\{\}", r"\w+") for name, concept in CONCEPTS.items()}
    for row in draw_training_rows({"quickstart_composed": 300}, "phase2", seed=2):
        question = row["prompt"].splitlines()[1]
        sentences = re.findall(r"Let \w be (.*?)\.", question)
        kinds = tuple(next(name for name, words_ in words.items() if re.fullmatch(words_, text)) for text in sentences)
        assert not links_of(kinds) & arithmetic.HELD_OUT_LINKS
        assert not is_held_out(question)


def test_addresses_not_order_decide_what_is_drawn():
    one = draw_training_rows({"quickstart_single": 20}, "phase1", seed=7)
    more = draw_training_rows({"quickstart_single": 60}, "phase1", seed=7)
    other = draw_training_rows({"quickstart_single": 20}, "control", seed=7)
    prompts, more_prompts, other_prompts = ({row["prompt"] for row in rows} for rows in (one, more, other))
    assert prompts < more_prompts
    assert prompts != other_prompts
    assert one == draw_training_rows({"quickstart_single": 20}, "phase1", seed=7)


def test_code_problems_name_their_tests_by_content():
    rows, files = draw_test_rows({"quickstart_code_unseen": 3}, seed=1)
    for row in rows:
        tests = files[row["tests"]["fname"]]
        assert hash_tests(tests) == row["tests"]["md5"]
        program = row["reference_solution"].partition("#### ")[2]
        for given, wanted in zip(*tests["input_output"].values(), strict=True):
            run = subprocess.run([sys.executable, "-c", program], input=given, capture_output=True, text=True)
            assert run.stdout == wanted


def test_asking_for_more_test_problems_than_are_held_out_is_refused():
    with pytest.raises(InputError, match="quickstart_code_single: 60 problems asked for"):
        draw_test_rows({"quickstart_code_single": 60}, seed=1)


def test_completions_have_one_closed_thought():
    for row in draw_training_rows(TRAINING, "phase2", seed=1):
        assert is_format_valid(with_open_thought(row["prompt"], row["completion"]))


@pytest.mark.parametrize("phase", ["phase1", "phase2"])
def test_the_shard_recipes_ask_for_no_more_passes_than_they_allow(phase: str):
    """Preparation keeps one of equal exercises, and there are few different programs of one step."""
    configs = ROOT / "configs/quickstart"
    data, recipe = (yaml.safe_load((configs / name).read_text()) for name in ("data.yaml", f"shards_{phase}.yaml"))
    texts: dict[str, list[str]] = {"math": [], "code": []}
    for row in draw_training_rows(data[phase], phase, data["seed"]):
        texts[row["domain"]].append(normal_form(row["prompt"] + row["completion"]))
    specs = parse_sources(recipe["sources"])
    kept = [np.ones(len(set(texts[(spec.domains or [""])[0]]))) for spec in specs]
    assert count_targets(specs, kept, kept, MixturePlan()) == list(map(len, texts.values()))
