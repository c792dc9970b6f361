"""Maths problems made of concepts: one alone ("Let A be 47 plus 38. Find A.") or a chain of two or three.

    Let A be 47 plus 38. Let B be the digit sum of A. Find B.

A chain's *links* are the ordered pairs of concepts in which the second works on the first's result. The pairs in
`HELD_OUT_LINKS` occur in no training problem, alone or inside a longer chain, so that problems holding one ask
for a combination never shown.
"""

import random

from promptcot_mamba.quickstart.concepts import CONCEPTS, LIMIT, draw_number
from promptcot_mamba.quickstart.exercise import Exercise, Link

NAMES = "ABCD"

# Each concept stands once first and once or twice second, so that training still shows it in both places.
HELD_OUT_LINKS: frozenset[Link] = frozenset(
    {
        ("add", "digit_sum"),
        ("subtract", "mod"),
        ("multiply", "smaller"),
        ("mod", "add"),
        ("digit_sum", "multiply"),
        ("larger", "subtract"),
        ("smaller", "larger"),
    }
)


def make_chain(rng: random.Random, kinds: tuple[str, ...]) -> Exercise | None:
    """A problem that works through these concepts in order; None if a value falls outside the next one's reach."""
    start = rng.randrange(len(NAMES) - len(kinds) + 1)  # a single problem may ask for B, C or D too
    names = NAMES[start : start + len(kinds)]
    value = draw_number(rng)
    sentences, lines, previous = [], [], None
    for name, kind in zip(names, kinds, strict=True):
        concept = CONCEPTS[kind]
        operands = concept.draw(rng, value)
        if operands is None:
            return None
        numbers = [value if operand is None else operand for operand in operands]
        words = [previous or value if operand is None else operand for operand in operands]
        sentences.append(f"Let {name} be {concept.words.format(*words)}.")
        value, work = concept.work(*numbers)
        if not 0 <= value <= LIMIT:
            return None
        lines += [f"{name} = {concept.signs.format(*numbers)}", work, f"{name} = {value}"]
        previous = name
    question = f"{' '.join(sentences)} Find {previous}."
    return Exercise(question, "\n".join(lines), f"The answer is \\boxed{{{value}}}.", str(value), kinds)


def draw_kinds(rng: random.Random, length: int) -> tuple[str, ...]:
    """A chain of `length` concepts, any links."""
    return tuple(rng.choice(tuple(CONCEPTS)) for _ in range(length))
