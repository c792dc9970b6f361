"""What a benchmark is: constants, publisher and conversion of its rows, and how it is sampled and graded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from promptcot_mamba.chat_format import MATH_INSTRUCTION, render_prompt
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math.gold import AnswerRules, Gold, gold_after_mark
from promptcot_mamba.jsonl import Row

# The paper's evaluation settings (arXiv 2505.22425, section on evaluation), the same for every benchmark.
PAPER_SAMPLING = {
    "temperature": 0.8,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "max_len": 65536,
    "max_retries": 1,  # no retry: retrying invalid formats biases scores upwards
}


@dataclass(frozen=True)
class Form:
    """One shape of rows.

    `repo` is its home on the hub (None: only as a local file); `parts` are groups of file patterns whose rows follow
    one another. `names` are file names under which the same rows are passed around. `columns` tell the form by its
    keys. `convert(raw, position)` returns the problem row, None for rows outside the benchmark; `position` counts the
    form's raw rows from 0.
    """

    repo: str | None
    parts: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    columns: tuple[str, ...]
    expected: int  # problems
    convert: Callable[[Row, int], Row | None]

    def check(self, raw: Row, where: str) -> None:
        """Raise InputError, naming what was found, if a row lacks a column of this form."""
        missing = [column for column in self.columns if column not in raw]
        if missing:
            raise InputError(f"{where}: missing column {', '.join(missing)}; found {', '.join(raw)}")


@dataclass(frozen=True)
class Publisher:
    """A benchmark's origin. The first form is the one fetched from the hub.

    `make_tests(raw)` returns the content of a problem's test file, for benchmarks that keep tests in a folder.
    """

    licence: str
    origin: str
    forms: tuple[Form, ...]
    make_tests: Callable[[Row], Any] | None = None
    tests_folder: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    `sources` are the values of a row's `source` that belong to it; a row without `source` belongs to the benchmark
    it is graded as. `read_gold(row)` raises InputError where the row holds no gold answer: maths without one of its
    own reads what follows `####` by `rules`; code has none. `publisher` is None where this project makes the problems.
    """

    name: str
    title: str
    kind: Literal["math", "code"]
    sources: tuple[str, ...]
    expected_problems: int | None
    n: int  # samples a problem in the headline; `--n` overrides
    publisher: Publisher | None = None
    published: bool = False  # a column of the papers' tables; any other is shown in a table of its own
    problem_file: str = ""  # in data/, `<name>_test.jsonl` by default; two may share one, told apart by source
    sampling: dict[str, Any] = field(default_factory=lambda: dict(PAPER_SAMPLING))
    rules: AnswerRules = field(default_factory=AnswerRules)
    read_gold: Callable[[Row], Gold] | None = None
    minerva: bool = True  # maths: whether the published script makes its second comparison
    tested_by: Literal["programs", "functions"] = "programs"  # code: whole programs, or a function of a given head

    def __post_init__(self) -> None:
        if not self.problem_file:
            object.__setattr__(self, "problem_file", f"{self.name}_test.jsonl")
        if self.kind == "math" and self.read_gold is None:
            object.__setattr__(self, "read_gold", partial(gold_after_mark, rules=self.rules))


def text(raw: Row, column: str) -> str:
    """A column's text; raises InputError if it is empty or no text."""
    value = raw.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"column {column!r} must be a non-empty text, found {value!r:.80}")
    return value


def asked(question: str, instruction: str = MATH_INSTRUCTION) -> Row:
    """What is asked, rendered and apart: a row's `prompt`, `question` and `instruction`."""
    return {"prompt": render_prompt(question, instruction), "question": question, "instruction": instruction}
