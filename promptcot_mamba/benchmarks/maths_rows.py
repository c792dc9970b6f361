r"""Final-answer maths: publishers' rows -> `idx, prompt, reference_solution, source, question, instruction`.

The gold stands after `####`. Where a publisher gives the answer alone, the worked solution is `\boxed{answer}`.
"""

from collections.abc import Callable

from promptcot_mamba.benchmarks.benchmark import Form, asked, text
from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

Convert = Callable[[Row, int], Row | None]


def make_row(idx: int, question: str, solution: str, answer: str, source: str, **extra: object) -> Row:
    """A problem row in the published format."""
    row = asked(question)
    reference = f"{solution}\n#### {answer}"
    return {"idx": idx, "prompt": row.pop("prompt"), "reference_solution": reference, "source": source, **row, **extra}


def from_columns(
    source: str, question: str, solution: str | None, answer: str, first: int = 0, number: str | None = None
) -> Convert:
    """A converter for rows with these columns; rows are numbered from `first`, or by the column `number`.

    A whole answer that pandas has made a float (`4.0`, where another row lacks its own) is whole again.
    """

    def convert(raw: Row, position: int) -> Row:
        value = raw[answer]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        gold = "" if value is None or value != value else str(value).strip()  # NaN is pandas' null
        if not gold:
            raise InputError(f"column {answer!r} is empty")
        worked = text(raw, solution) if solution and raw.get(solution) else f"\\boxed{{{gold}}}"
        return make_row(raw[number] if number else first + position, text(raw, question), worked, gold, source)

    return convert


def released(source: str, names: tuple[str, ...], expected: int) -> Form:
    """The PromptCoT release's own file: the question is taken out of whatever chat markers it has."""

    def convert(raw: Row, _position: int) -> Row | None:
        return {**raw, **asked(extract_question(text(raw, "prompt")))} if raw["source"] == source else None

    return Form(None, (), names, ("idx", "prompt", "reference_solution", "source"), expected, convert)


def matharena(repo: str, source: str, expected: int) -> Form:
    """A final-answer contest of MathArena's: `problem_idx` (from 1), `problem`, `answer` (a text, AIME's an integer).

    See the cards of MathArena/hmmt_feb_2025 and MathArena/aime_2026 on the hub: one Parquet file, split `train`.
    """
    return Form(
        f"MathArena/{repo}", (("data/train-*.parquet", "*.parquet", "*.jsonl"),), (f"{repo}.jsonl",),
        ("problem_idx", "problem", "answer"), expected,
        from_columns(source, "problem", None, "answer", number="problem_idx"),
    )  # fmt: skip
