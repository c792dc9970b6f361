"""Which exercises train and which test: never the same question, never the same held-out combination.

A question is held out by a hash of its text (one in ten): such questions only ever test, the others only ever
train. Composed training exercises also leave out every link of `HELD_OUT_LINKS`; the `unseen` sources test just
these. Every exercise has its own random address, so asking for more of them changes none.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice

from promptcot_mamba.chat_format import MATH_INSTRUCTION, THINK_END, THINK_START, render_prompt
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code.tests import hash_tests
from promptcot_mamba.jsonl import Row
from promptcot_mamba.quickstart import arithmetic, programs
from promptcot_mamba.quickstart.exercise import Exercise, links_of
from promptcot_mamba.records import derive_seed

HELD_OUT_ONE_IN = 10
HELD_OUT_LINKS = arithmetic.HELD_OUT_LINKS | programs.HELD_OUT_LINKS
TRIES = 20  # exercises drawn for each test problem wanted, before saying there are not that many


@dataclass(frozen=True)
class Source:
    """One kind of exercise: how it is drawn, whether its combinations are shown in training."""

    draw: Callable[[random.Random], Exercise | None]
    is_code: bool = False
    unseen: bool = False  # only exercises with a held-out link; otherwise only ones without

    @property
    def domain(self) -> str:
        return "code" if self.is_code else "math"

    @property
    def instruction(self) -> str:
        return programs.INSTRUCTION if self.is_code else MATH_INSTRUCTION


def _draw_composed(rng: random.Random) -> Exercise | None:
    return arithmetic.make_chain(rng, arithmetic.draw_kinds(rng, rng.choice((2, 3))))


def _draw_code(rng: random.Random, composed: bool = True) -> Exercise:
    return programs.make_program(rng, programs.draw_kinds(rng, composed))


SOURCES = {
    "quickstart_single": Source(lambda rng: arithmetic.make_chain(rng, arithmetic.draw_kinds(rng, 1))),
    "quickstart_composed": Source(_draw_composed),
    "quickstart_unseen": Source(_draw_composed, unseen=True),
    "quickstart_code_single": Source(partial(_draw_code, composed=False), is_code=True),
    "quickstart_code_composed": Source(_draw_code, is_code=True),
    "quickstart_code_unseen": Source(_draw_code, is_code=True, unseen=True),
}


def read_counts(flag: str, text: str) -> dict[str, int]:
    """A flag's counts; raises InputError naming the flag."""
    try:
        counts = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--{flag}: malformed JSON ({error.msg}) in {text!r}") from None
    if not isinstance(counts, dict) or not all(isinstance(number, int) for number in counts.values()):
        raise InputError(f"--{flag}: expected {{source: count}}, found {text!r}")
    if unknown := set(counts) - set(SOURCES):
        raise InputError(f"--{flag}: unknown source {sorted(unknown)}; known: {', '.join(SOURCES)}")
    return counts


def is_held_out(question: str) -> bool:
    """Whether a question belongs to the test side, by the hash of its text alone.

    One without any number is the only one of its kind: held out, training would never show what it asks.
    """
    if not any(character.isdigit() for character in question):
        return False
    return int.from_bytes(hashlib.blake2b(question.encode(), digest_size=8).digest(), "big") % HELD_OUT_ONE_IN == 0


def _draw_exercises(name: str, address: str, seed: int, held_out: bool) -> Iterator[Exercise]:
    source = SOURCES[name]
    for index in count():
        exercise = source.draw(random.Random(derive_seed(seed, name, address, index)))
        if exercise is None or is_held_out(exercise.question) != held_out:
            continue
        if bool(links_of(exercise.kinds) & HELD_OUT_LINKS) == source.unseen:
            yield exercise


def draw_training_rows(parts: dict[str, int], address: str, seed: int) -> list[Row]:
    """`{source: rows}` -> shuffled SFT rows `prompt, completion, domain, source`; another address, other exercises."""
    rows = []
    for name, wanted in parts.items():
        assert not SOURCES[name].unseen, f"{name} never trains"
        exercises = _draw_exercises(name, address, seed, held_out=False)
        for _, exercise in zip(range(wanted), exercises, strict=False):
            prompt = render_prompt(exercise.question, SOURCES[name].instruction)
            completion = f"{THINK_START}\n{exercise.thought}\n{THINK_END}\n{exercise.answer}"
            rows.append({"prompt": prompt, "completion": completion, "domain": SOURCES[name].domain, "source": name})
    random.Random(derive_seed(seed, "order", address)).shuffle(rows)
    return rows


def draw_test_rows(parts: dict[str, int], seed: int) -> tuple[list[Row], dict[str, Row]]:
    """`{source: problems}` -> problem rows, all different, and `{file name: tests}` for the code problems among them.

    A maths row has its gold after `####`; a code row names its tests file and md5, in LiveCodeBench's layout.
    Raises InputError where a source has fewer held-out problems.
    """
    rows, files = [], {}
    for name, wanted in parts.items():
        for row, tests in _draw_problems(name, wanted, "test", seed, held_out=True):
            if tests:
                file_name = f"{name}-{row['idx']}.json"
                files[file_name] = {"input_output": tests}
                row["tests"] = {"fname": file_name, "md5": hash_tests(files[file_name])}
            rows.append(row)
    return rows, files


def draw_selfplay_rows(parts: dict[str, int], seed: int) -> list[Row]:
    """`{source: problems}` -> problem rows on the training side, all different, whose answers can be checked.

    As `draw_test_rows`, but a code row holds its tests. Raises InputError where a source has fewer problems.
    """
    rows = []
    for name, wanted in parts.items():
        if SOURCES[name].unseen:
            raise InputError(f"{name}: its combinations only ever test")
        for row, tests in _draw_problems(name, wanted, "selfplay", seed, held_out=False):
            if tests:
                pairs = zip(tests["inputs"], tests["outputs"], strict=True)
                row["tests"] = [{"input": given, "output": printed} for given, printed in pairs]
            rows.append(row)
    return rows


def _draw_problems(
    name: str, wanted: int, address: str, seed: int, *, held_out: bool
) -> list[tuple[Row, dict[str, list[str]] | None]]:
    """So many different problems of a source; a maths row has no tests. Raises InputError where there are fewer."""
    found: dict[str, tuple[Row, dict[str, list[str]] | None]] = {}
    for exercise in islice(_draw_exercises(name, address, seed, held_out), TRIES * wanted):
        if len(found) == wanted:
            break
        if exercise.question in found:
            continue
        tests = None
        if SOURCES[name].is_code:
            tests = programs.make_tests(random.Random(derive_seed(seed, "tests", exercise.question)), exercise.result)
            if tests is None:  # a step of this program changes nothing
                continue
        row = {
            "idx": len(found),
            "source": name,
            "prompt": render_prompt(exercise.question, SOURCES[name].instruction),
            "reference_solution": f"{exercise.thought}\n#### {exercise.result}",
            "kinds": list(exercise.kinds),
        }
        found[exercise.question] = row, tests
    if len(found) < wanted:
        side = "held out" if held_out else "to train on"
        raise InputError(f"{name}: {wanted} problems asked for, {len(found)} different ones are {side}")
    return list(found.values())
