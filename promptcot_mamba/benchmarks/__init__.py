"""The benchmarks: what each asks, where it comes from, how it is sampled and graded, which file it lives in.

A benchmark is one module with one `Benchmark` and one line in `BENCHMARKS`; every program finds it here.
"""

from collections.abc import Sequence

from promptcot_mamba.benchmarks.aime import AIME24, AIME25
from promptcot_mamba.benchmarks.aime26 import AIME26
from promptcot_mamba.benchmarks.benchmark import Benchmark
from promptcot_mamba.benchmarks.gsm8k import GSM8K
from promptcot_mamba.benchmarks.hmmt import HMMT25
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
    "hmmt25": HMMT25,
    "aime26": AIME26,
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


def fetched(published: bool | None = None) -> list[str]:
    """Names of the benchmarks that have a publisher: all, or those (not) in the papers' tables."""
    return [
        name
        for name, benchmark in BENCHMARKS.items()
        if benchmark.publisher is not None and published in (None, benchmark.published)
    ]


def problem_sets(names: Sequence[str]) -> dict[str, list[Benchmark]]:
    """What is sampled together under one name: a benchmark's own, or that of the file several share (`aime`).

    "paper" and "all" stand for the problem files of the papers' tables and of all publishers. Raises InputError for
    an unknown name.
    """
    shared: dict[str, list[Benchmark]] = {}
    for name in fetched():  # `aime` for `aime_test.jsonl`
        file = BENCHMARKS[name].problem_file.removesuffix(".jsonl").removesuffix("_test")
        shared.setdefault(file, []).append(BENCHMARKS[name])
    known = {**{name: [benchmark] for name, benchmark in BENCHMARKS.items()}, **shared}
    groups = {
        "all": list(shared),
        "paper": [name for name, members in shared.items() if all(member.published for member in members)],
    }
    found: dict[str, list[Benchmark]] = {}
    for name in names:
        for one in groups.get(name, [name]):
            if one not in known:
                raise InputError(f"unknown benchmark {one!r}; known: all, paper, {', '.join(known)}")
            found[one] = known[one]
    return found
