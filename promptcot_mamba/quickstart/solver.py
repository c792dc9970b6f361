"""The maths family's exact solver: a problem's text -> its concepts, its values, its worked solution.

    solve("Let A be 47 plus 38. Let B be the digit sum of A. Find B.").answer == 13

It reads text alone, so it also judges problems that a model wrote. What it reads is any chain of the seven concepts'
sentences; `Chain.is_linked` and `Chain.reach` say whether it is one the family itself would draw.
"""

import re
from dataclasses import dataclass

from promptcot_mamba.quickstart.concepts import CONCEPTS, LIMIT

Operand = int | str  # a number, or the name of an earlier value

_PROBLEM = re.compile(r"((?:Let [A-D] be [^.]+\. )+)Find ([A-D])\.")
_SENTENCE = re.compile(r"Let ([A-D]) be ([^.]+)\.")
_OPERAND = r"(0|[1-9]\d{0,3}|[A-D])"  # longer numbers are nothing the family means
_SMALL_SECOND = ("multiply", "mod")  # their second operand is a number of one digit, 2 at least
_PATTERNS = {
    kind: re.compile(_OPERAND.join(map(re.escape, concept.words.split("{}")))) for kind, concept in CONCEPTS.items()
}


class UnreadableProblemError(ValueError):
    """The text is no problem of the family."""


class UnsolvableProblemError(ValueError):
    """A problem of the family's form that has no answer in whole numbers."""


@dataclass(frozen=True)
class Step:
    """One sentence, worked: `name` is the concept `kind` of `operands`, whose values are `numbers`."""

    name: str
    kind: str
    operands: tuple[Operand, ...]
    numbers: tuple[int, ...]
    value: int

    @property
    def in_reach(self) -> bool:
        """Whether every number is one the family draws: up to LIMIT, small divisors and factors."""
        if self.kind in _SMALL_SECOND and not (isinstance(self.operands[1], int) and 2 <= self.numbers[1] <= 9):
            return False
        return all(0 <= number <= LIMIT for number in (*self.numbers, self.value))


@dataclass(frozen=True)
class Chain:
    """A solved problem: its steps in order, the name it asks for."""

    steps: tuple[Step, ...]
    asked: str

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(step.kind for step in self.steps)

    @property
    def answer(self) -> int:
        return next(step.value for step in self.steps if step.name == self.asked)

    @property
    def is_linked(self) -> bool:
        """Whether each step works on the one before, once and on no other, and the last is asked: all are needed."""
        names = [None, *(step.name for step in self.steps)]
        used = [[operand for operand in step.operands if isinstance(operand, str)] for step in self.steps]
        wanted = [[name] if name else [] for name in names[:-1]]
        return used == wanted and self.asked == names[-1]

    @property
    def in_reach(self) -> bool:
        return all(step.in_reach for step in self.steps)

    @property
    def thought(self) -> str:
        """The working as the family writes it."""
        lines = []
        for step in self.steps:
            concept = CONCEPTS[step.kind]
            work = concept.work(*step.numbers)[1]
            lines += [f"{step.name} = {concept.signs.format(*step.numbers)}", work, f"{step.name} = {step.value}"]
        return "\n".join(lines)


def solve(question: str) -> Chain:
    """Read and work a problem.

    Raises UnreadableProblemError if the text is not a chain of the family's sentences with a question after it, each
    name new; UnsolvableProblemError if a name is used before it has a value, a value is negative or a divisor zero.
    """
    problem = _PROBLEM.fullmatch(question)
    if problem is None:
        raise UnreadableProblemError(f"no 'Let ... be ... Find ...': {question!r}")
    values: dict[str, int] = {}
    steps = []
    for name, words in _SENTENCE.findall(problem[1]):
        if name in values:
            raise UnreadableProblemError(f"{name} is said twice")
        kind, operands = read_words(words)
        numbers = tuple(_look_up(operand, values) for operand in operands)
        steps.append(Step(name, kind, operands, numbers, compute(kind, numbers)))
        values[name] = steps[-1].value
    if problem[2] not in values:
        raise UnsolvableProblemError(f"{problem[2]} is asked for and has no value")
    return Chain(tuple(steps), problem[2])


def read_words(words: str) -> tuple[str, tuple[Operand, ...]]:
    """`the larger of A and 7` -> `("larger", ("A", 7))`; raises UnreadableProblemError if no concept says it."""
    for kind, pattern in _PATTERNS.items():
        match = pattern.fullmatch(words)
        if match:
            return kind, tuple(int(word) if word.isdigit() else word for word in match.groups())
    raise UnreadableProblemError(f"no concept says {words!r}")


def _look_up(operand: Operand, values: dict[str, int]) -> int:
    if isinstance(operand, int):
        return operand
    if operand not in values:
        raise UnsolvableProblemError(f"{operand} is used before it has a value")
    return values[operand]


def compute(kind: str, numbers: tuple[int, ...]) -> int:
    """A concept's value in whole numbers; raises UnsolvableProblemError where it has none."""
    if kind == "subtract" and numbers[0] < numbers[1]:
        raise UnsolvableProblemError(f"{numbers[0]} minus {numbers[1]} is negative")
    if kind == "mod" and numbers[1] == 0:
        raise UnsolvableProblemError("a remainder of a division by 0")
    return CONCEPTS[kind].work(*numbers)[0]
