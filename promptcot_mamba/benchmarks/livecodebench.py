"""LiveCodeBench, the v5 window (2024-08-03 to 2025-01-04): 175 stdin and 104 functional problems."""

from __future__ import annotations

from promptcot_mamba.benchmarks.benchmark import Benchmark

LIVECODEBENCH = Benchmark(
    name="livecodebench",
    title="LiveCodeBench",
    kind="code",
    sources=("livecodebench",),
    problem_file="livecodebench_test.jsonl",
    expected_problems=279,
    n=8,  # arXiv 2505.22425: 8 samples a problem
)
