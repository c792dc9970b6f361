"""HumanEval: 164 functions with the publisher's assert-style tests."""

from __future__ import annotations

from promptcot_mamba.benchmarks.benchmark import Benchmark

HUMANEVAL = Benchmark(
    name="humaneval",
    title="HumanEval",
    kind="code",
    sources=("humaneval",),
    problem_file="humaneval_test.jsonl",
    expected_problems=164,
    n=8,
)
