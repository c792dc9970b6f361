"""AIME 2024 and 2025: thirty problems each, integers from 0 to 999, both years in one problem file."""

from __future__ import annotations

from promptcot_mamba.benchmarks.benchmark import Benchmark
from promptcot_mamba.grading.math.gold import AnswerRules, Gold, gold_after_mark
from promptcot_mamba.jsonl import Row

RULES = AnswerRules(type="integer")


def read_gold(row: Row) -> Gold:
    """The integer after `####`; the published file writes one of them `336^\\circ`."""
    return gold_after_mark(row, RULES)


def _aime(year: int) -> Benchmark:
    return Benchmark(
        name=f"aime{year % 100}",
        title=f"AIME {year}",
        kind="math",
        sources=(f"aime{year}",),
        problem_file="aime_test.jsonl",
        expected_problems=30,
        n=16,  # arXiv 2505.22425: 16 samples a problem
        rules=RULES,
        read_gold=read_gold,
    )


AIME24 = _aime(2024)
AIME25 = _aime(2025)
