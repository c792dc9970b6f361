r"""Final-answer maths: publishers' rows -> `idx, prompt, reference_solution, source`, the gold after `####`.

AIME: the published problem file holds 2024 in the order and words of Maxwell-Jia/AIME_2024 (2024-II-4 first) and 2025
as opencompass/AIME2025, I then II, whose answers stand alone: their `reference_solution` is `\boxed{answer}`.
"""

from __future__ import annotations

from collections.abc import Callable

from promptcot_mamba.benchmarks.publishers.publisher import Form, Publisher, text
from promptcot_mamba.chat_format import extract_question, render_prompt
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

PUBLISHED_COLUMNS = ("idx", "prompt", "reference_solution", "source")


def make_row(idx: int, question: str, solution: str, answer: str, source: str, **extra: object) -> Row:
    """A problem row in the published format."""
    return {
        "idx": idx,
        "prompt": render_prompt(question),
        "reference_solution": f"{solution}\n#### {answer}",
        "source": source,
        **extra,
    }


def _published(source: str, names: tuple[str, ...], expected: int, first: int | None = None) -> Form:
    """The release's own file: the question is taken out of whatever chat markers it has and rendered in ours.

    Rows are numbered as they are, or, with `first`, from there on.
    """

    def convert(raw: Row, position: int) -> Row | None:
        if raw["source"] != source:
            return None
        row = {**raw, "prompt": render_prompt(extract_question(text(raw, "prompt")))}
        return row if first is None else {**row, "idx": first + position}

    return Form(None, (), names, PUBLISHED_COLUMNS, expected, convert)


def _columns(
    source: str, question: str, solution: str | None, answer: str, first: int = 0
) -> Callable[[Row, int], Row]:
    """A converter for rows with these columns; without a solution column the boxed answer is the solution."""

    def convert(raw: Row, position: int) -> Row:
        gold = str(raw[answer]).strip()
        if not gold:
            raise InputError(f"column {answer!r} is empty")
        worked = text(raw, solution) if solution and raw.get(solution) else f"\\boxed{{{gold}}}"
        return make_row(first + position, text(raw, question), worked, gold, source)

    return convert


AIME_NAMES = ("aime_test.jsonl",)
AIME24 = Publisher(
    licence="problems by the Mathematical Association of America; data set MIT",
    origin="https://huggingface.co/datasets/Maxwell-Jia/AIME_2024",
    forms=(
        Form(
            "Maxwell-Jia/AIME_2024", (("*.jsonl", "*.parquet", "data/*.parquet"),), (),
            ("ID", "Problem", "Solution", "Answer"), 30, _columns("aime2024", "Problem", "Solution", "Answer"),
        ),
        Form(
            "HuggingFaceH4/aime_2024", (("data/*.parquet", "*.parquet", "*.jsonl"),), (),
            ("problem", "solution", "answer"), 30, _columns("aime2024", "problem", "solution", "answer"),
        ),
        _published("aime2024", AIME_NAMES, 30),
    ),
)  # fmt: skip
AIME25 = Publisher(
    licence="problems by the Mathematical Association of America; data set MIT",
    origin="https://huggingface.co/datasets/opencompass/AIME2025",
    forms=(
        Form(
            "opencompass/AIME2025",
            (("aime2025-I.jsonl", "AIME2025-I/*"), ("aime2025-II.jsonl", "AIME2025-II/*")),
            (), ("question", "answer"), 30, _columns("aime2025", "question", None, "answer", first=30),
        ),
        _published("aime2025", AIME_NAMES, 30),
    ),
)  # fmt: skip


def convert_math500(raw: Row, position: int) -> Row:
    extra = {key: raw[key] for key in ("unique_id", "subject", "level") if key in raw}
    return make_row(position, text(raw, "problem"), text(raw, "solution"), text(raw, "answer"), "math", **extra)


MATH500 = Publisher(
    licence="MIT",
    origin="https://huggingface.co/datasets/HuggingFaceH4/MATH-500",
    forms=(
        Form(
            "HuggingFaceH4/MATH-500", (("test.jsonl", "*.jsonl", "*.parquet", "data/*.parquet"),), (),
            ("problem", "solution", "answer"), 500, convert_math500,
        ),
        _published("math", ("math500.jsonl", "math500_test.jsonl"), 500),
    ),
)  # fmt: skip


def convert_gsm8k(raw: Row, position: int) -> Row:
    answer = text(raw, "answer")
    if "####" not in answer:
        raise InputError("column 'answer' has no '####'; did the schema change?")
    return {
        "idx": position,
        "prompt": render_prompt(text(raw, "question")),
        "reference_solution": answer,
        "source": "gsm8k",
    }


GSM8K = Publisher(
    licence="MIT",
    origin="https://huggingface.co/datasets/openai/gsm8k",
    forms=(
        Form(
            "openai/gsm8k", (("main/test-*.parquet", "main/test*.jsonl", "test*.jsonl"),), (),
            ("question", "answer"), 1319, convert_gsm8k,
        ),
        _published("gsm8k", ("gsm8k.jsonl", "gsm8k_test.jsonl"), 1319),
    ),
)  # fmt: skip

OLYMPIAD_KEYS = ("final_answer", "is_multiple_answer", "unit", "answer_type", "error", "subfield")


def convert_olympiad(raw: Row, _position: int) -> Row:
    """A row of the subset OE_TO_maths_en_COMP: open-ended, text only, maths, English, competition."""
    answers = raw["final_answer"]
    if not isinstance(answers, list) or not answers:
        raise InputError(f"column 'final_answer' must be a non-empty list, found {answers!r:.80}")
    question = text(raw, "question")
    if raw.get("context"):
        question = f"{raw['context']}\n{question}"
    solution = "\n".join(raw.get("solution") or []) or f"\\boxed{{{answers[0]}}}"
    return {
        "id": raw["id"],
        "prompt": render_prompt(question),
        "reference_solution": f"{solution}\n#### {', '.join(answers)}",
        "source": "olympiadbench",
        **{key: raw.get(key) for key in OLYMPIAD_KEYS},
    }


OLYMPIADBENCH = Publisher(
    licence="Apache-2.0",
    origin="https://huggingface.co/datasets/Hothan/OlympiadBench, subset OE_TO_maths_en_COMP",
    forms=(
        Form(
            "Hothan/OlympiadBench",
            (("OlympiadBench/OE_TO_maths_en_COMP/*.parquet", "OE_TO_maths_en_COMP/*", "*OE_TO_maths_en_COMP*"),),
            (), ("id", "question", "solution", "final_answer", "subject"), 674, convert_olympiad,
        ),
        # The same subset as Qwen2.5-Math's evaluation passes it on: one problem more than the publisher has now.
        Form(
            None, (), ("olympiadbench_oe_to_maths_en.jsonl", "olympiadbench.jsonl"),
            ("id", "question", "solution", "final_answer"), 675, convert_olympiad,
        ),
    ),
)  # fmt: skip
