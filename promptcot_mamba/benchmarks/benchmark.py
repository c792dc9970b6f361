"""What a benchmark is: a few constants, where its gold answer stands, how a published row becomes a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from promptcot_mamba.grading.math.gold import AnswerRules, Gold
from promptcot_mamba.jsonl import Row


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    `sources` are the values of a row's `source` that belong to it; a row without `source` belongs to the benchmark
    it is graded as. `read_gold(row)` raises InputError where the row holds no gold answer; code benchmarks have none.
    """

    name: str
    title: str
    kind: Literal["math", "code"]
    sources: tuple[str, ...]
    problem_file: str  # in data/; two benchmarks may share one file and tell their rows apart by source
    expected_problems: int | None
    n: int  # samples a problem in the headline; `--n` overrides
    rules: AnswerRules = field(default_factory=AnswerRules)
    read_gold: Callable[[Row], Gold] | None = None
