"""MATH-500: 500 competition problems whose golds are LaTeX of every kind, read by their own form."""

from __future__ import annotations

from promptcot_mamba.benchmarks.benchmark import Benchmark
from promptcot_mamba.grading.math.gold import gold_after_mark

MATH500 = Benchmark(
    name="math500",
    title="MATH-500",
    kind="math",
    sources=("math",),
    problem_file="math500_test.jsonl",
    expected_problems=500,
    n=8,  # PromptCoT's table: mean ± SD over 8 runs (arXiv 2503.02324)
    read_gold=gold_after_mark,
)
