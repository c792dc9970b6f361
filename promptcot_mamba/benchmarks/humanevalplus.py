"""HumanEval+: HumanEval's 164 problems with EvalPlus's many more test inputs."""

from __future__ import annotations

from promptcot_mamba.benchmarks.benchmark import Benchmark

HUMANEVALPLUS = Benchmark(
    name="humanevalplus",
    title="HumanEval+",
    kind="code",
    sources=("humanevalplus",),
    problem_file="humanevalplus_test.jsonl",
    expected_problems=164,
    n=8,
)
