"""The benchmarks: what each asks, how it is graded, which file it lives in.

A benchmark is one module with one `Benchmark` and one line in `BENCHMARKS`.
"""

from __future__ import annotations

from promptcot_mamba.benchmarks.aime import AIME24, AIME25
from promptcot_mamba.benchmarks.benchmark import Benchmark
from promptcot_mamba.benchmarks.gsm8k import GSM8K
from promptcot_mamba.benchmarks.humaneval import HUMANEVAL
from promptcot_mamba.benchmarks.humanevalplus import HUMANEVALPLUS
from promptcot_mamba.benchmarks.livecodebench import LIVECODEBENCH
from promptcot_mamba.benchmarks.math500 import MATH500
from promptcot_mamba.benchmarks.olympiadbench import OLYMPIADBENCH
from promptcot_mamba.benchmarks.quickstart import QUICKSTART
from promptcot_mamba.errors import InputError

BENCHMARKS: dict[str, Benchmark] = {
    "aime24": AIME24,
    "aime25": AIME25,
    "math500": MATH500,
    "olympiadbench": OLYMPIADBENCH,
    "gsm8k": GSM8K,
    "humaneval": HUMANEVAL,
    "humanevalplus": HUMANEVALPLUS,
    "livecodebench": LIVECODEBENCH,
    **QUICKSTART,
}


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of this name; raises InputError listing the known ones."""
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def benchmark_of_source(source: str) -> Benchmark:
    """The benchmark a row's `source` belongs to; raises InputError listing the known sources."""
    for benchmark in BENCHMARKS.values():
        if source in benchmark.sources:
            return benchmark
    known = ", ".join(name for benchmark in BENCHMARKS.values() for name in benchmark.sources)
    raise InputError(f"unknown source {source!r}; known: {known}")
