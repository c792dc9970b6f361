"""The shape both families share."""

from dataclasses import dataclass
from itertools import pairwise

Link = tuple[str, str]  # two concepts or steps, the second working on the first's result


@dataclass(frozen=True)
class Exercise:
    """A problem with its worked solution."""

    question: str
    thought: str
    answer: str  # what a completion says after its thought
    result: str  # the bare number or program
    kinds: tuple[str, ...]  # the concepts or steps it is made of, in order


def links_of(kinds: tuple[str, ...]) -> set[Link]:
    """The ordered pairs of neighbours."""
    return set(pairwise(kinds))
