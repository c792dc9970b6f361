"""When a problem's majority is decided: no outcome of the samples that are missing can change it.

Votes are the grader's own (`benchmarks/math_scoring`), so that what is decided here is decided there.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from promptcot_mamba.benchmarks import BENCHMARKS, Benchmark
from promptcot_mamba.benchmarks.math_scoring import cast_vote, grade_sample
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math.gold import Gold
from promptcot_mamba.grading.predictions import Prediction
from promptcot_mamba.log import logger
from promptcot_mamba.records import Problem, Sample


@dataclass
class Ballot:
    """The votes on one problem so far."""

    benchmark: Benchmark
    gold: Gold | None  # None where the problem has no answer of its own
    classes: list[str] = field(default_factory=list)  # of wrong answers, or of all where there is no gold
    votes: Counter[str] = field(default_factory=Counter)
    cast: int = 0  # samples, those without an answer included

    def is_decided(self, n: int) -> bool:
        """Whether the leading answer stays ahead of every other, whatever the missing ones of `n` samples say."""
        leading = [*sorted(self.votes.values(), reverse=True), 0, 0]
        return leading[0] > leading[1] + n - self.cast


class Decisions:
    """Counts the votes of settled samples; problems that are no final-answer maths have none, which is said once."""

    def __init__(self, problems: Sequence[Problem], n: int):
        self.n = n
        self.decided: set[str] = set()  # ids of problems
        self._ballots = {problem.id: Ballot(one, _gold_of(problem, one)) for problem in problems
                         if (one := _maths_of(problem)) is not None}  # fmt: skip
        if others := len(problems) - len(self._ballots):
            logger.warning(
                "--stop_when_decided: %d problem(s) are no final-answer maths; all their samples are made", others
            )

    def add(self, sample: Sample, problem: Problem) -> None:
        """Count one settled sample."""
        ballot = self._ballots.get(problem.id)
        if ballot is None:
            return
        row = {"thinking": sample.thinking, "finish_reason": sample.finish_reason}
        prediction = Prediction(problem.id, sample.run, sample.completion, row, line=0)
        grade = grade_sample(prediction, ballot.benchmark, ballot.gold or Gold(""))
        vote = cast_vote(grade, ballot.classes, ballot.gold or Gold("", ballot.benchmark.rules))
        ballot.cast += 1
        if vote is not None:
            ballot.votes[vote] += 1
        if ballot.is_decided(self.n):
            self.decided.add(problem.id)


def _maths_of(problem: Problem) -> Benchmark | None:
    """How a problem's answers are compared: as its benchmark's; None for code."""
    for benchmark in BENCHMARKS.values():
        if problem.source in benchmark.sources:
            return benchmark if benchmark.kind == "math" else None
    code = "entry_point" in problem.fields or "tests" in problem.fields
    return None if code else BENCHMARKS["math500"]  # any answer, by its own form


def _gold_of(problem: Problem, benchmark: Benchmark) -> Gold | None:
    assert benchmark.read_gold is not None  # maths has one
    try:
        return benchmark.read_gold(problem.fields)
    except InputError:
        return None  # problems that are sampled to find their answer
