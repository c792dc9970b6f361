"""What a prediction file lacks: runs of its problems, and problems of its benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.benchmarks.benchmark import Benchmark
from promptcot_mamba.grading.predictions import Prediction, missing_runs
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import read_sampling


@dataclass(frozen=True)
class Missing:
    """`runs`: the run numbers that a problem lacks; `problems`: how many of a benchmark have no run at all."""

    runs: dict[str, list[int]]
    problems: dict[str, int]

    def __bool__(self) -> bool:
        return bool(self.runs or self.problems)


def find_missing(
    path: str | Path,
    predictions: Sequence[Prediction],
    benchmarks: Sequence[Benchmark | None],
    expected_runs: int | None = None,
) -> Missing:
    """What these predictions lack, where `benchmarks` holds each one's own (None: a source that no benchmark knows).

    `expected_runs` is by default the n that the file was sampled with, as its run.json says; without one the
    benchmark's own, 1 for an unknown source. Absent problems are warned of here.
    """
    expected_runs = expected_runs or (read_sampling(path).get("samples") or {}).get("n")
    owned: dict[str, tuple[Benchmark | None, list[Prediction]]] = {}
    for prediction, benchmark in zip(predictions, benchmarks, strict=True):
        owned.setdefault(benchmark.name if benchmark else "", (benchmark, []))[1].append(prediction)
    runs: dict[str, list[int]] = {}
    problems: dict[str, int] = {}
    for name, (benchmark, own) in owned.items():
        runs |= missing_runs(own, expected_runs or (benchmark.n if benchmark else 1))
        expected = benchmark.expected_problems if benchmark else None
        found = len({one.problem_id for one in own})
        if expected is not None and found < expected:
            problems[name] = expected - found
            logger.warning("%s: %d of the %d problems of %s have no run at all", path, problems[name], expected, name)
    return Missing(runs, problems)
