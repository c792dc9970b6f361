"""What a domain is: a chain stands for a value (an answer, what a program prints, a quantity), and values compare."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptcot_mamba.jsonl import Row

Address = tuple[str, int]  # (id, run) of a chain


@dataclass(frozen=True)
class Domain:
    """instruction: asked for beside the problem; source: the output whose rows become the teacher's problems; carries:
    fields of those rows that stay with the problem.

    observe(chains, workers): what each chain stands for, by (id, run); a chain that stands for nothing is left out.
    same(a, b): whether two chains agree. describe(chain, value): what a kept row says of the agreed value.
    check(row, completions, workers): whether completions reach what a kept row says.
    """

    instruction: str
    observe: Callable[[Sequence[Row], int | None], Mapping[Address, Any]]
    same: Callable[[Any, Any], bool]
    describe: Callable[[Row, Any], Row]
    check: Callable[[Row, Sequence[str], int | None], list[bool]]
    source: str = "kept_problems"
    carries: tuple[str, ...] = ()
