"""Grade a prediction file of final-answer maths: predictions -> grades -> summary, table and files beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from promptcot_mamba.benchmarks import Benchmark, benchmark_of_source
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading import math_strict
from promptcot_mamba.grading.answers import extract_answer
from promptcot_mamba.grading.gold import Gold
from promptcot_mamba.grading.predictions import Prediction
from promptcot_mamba.records import Grade


def benchmark_of(prediction: Prediction, path: str | Path, chosen: Benchmark | None) -> Benchmark:
    """The benchmark of one row: by its `source`, or the chosen one where the row names none.

    Raises InputError, naming the line, for a missing or unknown source.
    """
    where = f"{path}:{prediction.line}"
    if prediction.source is None:
        if chosen is None:
            raise InputError(f"{where}: missing key 'source'; add it or name the benchmark with scripts.calc_acc")
        return chosen
    try:
        return benchmark_of_source(prediction.source)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def grade_sample(prediction: Prediction, benchmark: Benchmark, gold: Gold) -> Grade:
    """The strict verdict on one sample. A cut thought is `truncated`, a missing box `no_answer`: never a guess."""
    started = time.perf_counter()
    found = extract_answer(prediction.completion)
    if found.answer is None:
        reason = "truncated" if prediction.cut_short else found.reason
        equal = False
    else:
        equal = math_strict.grade(gold, found.answer, found.listed).equal
        reason = "right" if equal else "wrong"
    seconds = round(time.perf_counter() - started, 6)
    return Grade(prediction.problem_id, prediction.run, benchmark.name, "strict", equal, found.answer, reason, seconds)


def grade_all(
    predictions: Sequence[Prediction], benchmark_for: Callable[[Prediction], Benchmark]
) -> Iterable[tuple[Prediction, Grade]]:
    """Grade predictions one by one."""
    for prediction in predictions:
        benchmark = benchmark_for(prediction)
        yield prediction, grade_sample(prediction, benchmark, benchmark.read_gold(prediction.row))
