"""GSM8K test: 1,319 word problems with integer answers, some written with thousands separators."""

from __future__ import annotations

from promptcot_mamba.benchmarks.benchmark import Benchmark
from promptcot_mamba.grading.math.gold import AnswerRules, Gold, gold_after_mark
from promptcot_mamba.jsonl import Row

RULES = AnswerRules(type="numerical")


def read_gold(row: Row) -> Gold:
    return gold_after_mark(row, RULES)


GSM8K = Benchmark(
    name="gsm8k",
    title="GSM8K",
    kind="math",
    sources=("gsm8k",),
    problem_file="gsm8k_test.jsonl",
    expected_problems=1319,
    n=8,  # PromptCoT's table: mean ± SD over 8 runs (arXiv 2503.02324)
    rules=RULES,
    read_gold=read_gold,
)
