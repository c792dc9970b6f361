"""Code problems: programs over the whole numbers on standard input, in steps.

    Read whole numbers from standard input. Keep those above 4. Multiply each by 3. Print their sum.

A step changes the list; the last prints something of it. A simple problem makes one change and prints the list,
or only prints; a composed one makes one or two changes and prints something else than the list. Tests are inputs
with the reference program's outputs, chosen so that a program which leaves any step out fails one of them.
"""

import io
import random
from dataclasses import dataclass
from functools import partial

from promptcot_mamba.quickstart.exercise import Exercise, Link

INSTRUCTION = "Write a Python program and enclose it within ```python and ```."
READING = ("import sys", "xs = [int(x) for x in sys.stdin.read().split()]")
TESTS_PER_PROBLEM = 6


@dataclass(frozen=True)
class Step:
    """One step: its words and its line of Python over the list `xs`; `{k}` stands for its constant."""

    words: str
    line: str
    constants: range = range(1)  # one value: the step has no constant


CHANGES = {
    "keep_even": Step("Keep the even ones.", "xs = [x for x in xs if x % 2 == 0]"),
    "keep_odd": Step("Keep the odd ones.", "xs = [x for x in xs if x % 2 == 1]"),
    "keep_above": Step("Keep those above {k}.", "xs = [x for x in xs if x > {k}]", range(61)),
    "keep_below": Step("Keep those below {k}.", "xs = [x for x in xs if x < {k}]", range(61)),
    "add": Step("Add {k} to each.", "xs = [x + {k} for x in xs]", range(1, 61)),
    "multiply": Step("Multiply each by {k}.", "xs = [x * {k} for x in xs]", range(2, 31)),
    "square": Step("Square each.", "xs = [x * x for x in xs]"),
    "remainder": Step("Take each modulo {k}.", "xs = [x % {k} for x in xs]", range(2, 31)),
    "distinct": Step("Drop repeats.", "xs = list(dict.fromkeys(xs))"),
}
PRINTS = {
    "all": Step("Print them.", "print(*xs)"),
    "sum": Step("Print their sum.", "print(sum(xs))"),
    "count": Step("Print how many there are.", "print(len(xs))"),
    "largest": Step("Print the largest, or zero if there is none.", "print(max(xs, default=0))"),
    "smallest": Step("Print the smallest, or zero if there is none.", "print(min(xs, default=0))"),
    "in_order": Step("Print them in increasing order.", "print(*sorted(xs))"),
    "reversed": Step("Print them in reverse order.", "print(*xs[::-1])"),
}
STEPS = CHANGES | PRINTS

HELD_OUT_LINKS: frozenset[Link] = frozenset(
    {
        ("keep_even", "multiply"),
        ("keep_odd", "sum"),
        ("keep_above", "count"),
        ("keep_below", "remainder"),
        ("add", "largest"),
        ("multiply", "keep_above"),
        ("square", "smallest"),
        ("remainder", "reversed"),
        ("distinct", "in_order"),
    }
)


def draw_kinds(rng: random.Random, composed: bool) -> tuple[str, ...]:
    """The steps of a problem, in order: see the module's first lines for what simple and composed mean."""
    changes = tuple(CHANGES)
    if not composed:
        return rng.choice([(change, "all") for change in changes] + [(last,) for last in PRINTS if last != "all"])
    last = rng.choice([name for name in PRINTS if name != "all"])
    return (*rng.sample(changes, rng.choice((1, 2))), last)


def make_program(rng: random.Random, kinds: tuple[str, ...]) -> Exercise:
    """A problem of these steps, with random constants."""
    constants = [rng.choice(STEPS[kind].constants) for kind in kinds]
    words = [STEPS[kind].words.format(k=k) for kind, k in zip(kinds, constants, strict=True)]
    lines = [STEPS[kind].line.format(k=k) for kind, k in zip(kinds, constants, strict=True)]
    thought = "\n".join(f"{text} {line}" for text, line in zip(words, lines, strict=True))
    program = "\n".join([*READING, *lines])
    question = f"Read whole numbers from standard input. {' '.join(words)}"
    return Exercise(question, thought, f"```python\n{program}\n```", program, kinds)


def make_tests(rng: random.Random, program: str) -> dict[str, list[str]] | None:
    """Inputs and the reference program's outputs; None if a program without one of the steps would pass."""
    lines = program.splitlines()[len(READING) :]
    lists = [_draw_input(rng) for _ in range(TESTS_PER_PROBLEM)]
    outputs = [run_lines(lines, numbers) for numbers in lists]
    for skipped in range(len(lines) - 1):  # without its last step a program prints nothing
        others = lines[:skipped] + lines[skipped + 1 :]
        if outputs == [run_lines(others, numbers) for numbers in lists]:
            return None
    return {"inputs": [f"{' '.join(map(str, numbers))}\n" for numbers in lists], "outputs": outputs}


def _draw_input(rng: random.Random) -> list[int]:
    """A list with some repeats."""
    numbers = [rng.randint(-20, 80) for _ in range(rng.randint(4, 7))]
    return numbers + rng.choices(numbers, k=2)


def run_lines(lines: list[str], numbers: list[int]) -> str:
    """What the reference program (our own lines, never a model's) prints for these numbers.

    It has a `print` of its own: seeds are drawn side by side, and standard output is the whole process's.
    """
    printed = io.StringIO()
    exec("\n".join(lines), {"xs": list(numbers), "print": partial(print, file=printed)})
    return printed.getvalue()
