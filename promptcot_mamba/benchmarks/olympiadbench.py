"""OlympiadBench, open-ended English text-only maths (OE_TO_maths_en_COMP, 674 problems).

Its rows say what an answer is: `answer_type` (Numerical, Expression, Tuple, Interval), `is_multiple_answer`, `unit`
and sometimes `error`, the absolute tolerance. Its judge compares numbers within 1e-8 where `error` is absent and
lets percentages equal fractions (github.com/OpenBMB/OlympiadBench).
"""

from typing import cast

from promptcot_mamba.benchmarks.benchmark import Benchmark, Form, Publisher, asked, text
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math.gold import AnswerRules, AnswerType, Gold, gold_after_mark
from promptcot_mamba.jsonl import Row

RULES = AnswerRules(tolerance=1e-8)
ANSWER_TYPES = {"Numerical": "numerical", "Expression": "expression", "Tuple": "tuple", "Interval": "interval"}


def read_gold(row: Row) -> Gold:
    """The gold of a published row (`final_answer` and its types) or of one that carries it after `####`.

    Raises InputError for an unknown answer type, a bad tolerance or a missing answer.
    """
    name = row.get("answer_type") or "any"
    answer_type = ANSWER_TYPES.get(name, name)
    if answer_type not in {"any", *ANSWER_TYPES.values()}:
        raise InputError(f"unknown answer_type {name!r}; known: {', '.join(ANSWER_TYPES)}")
    try:
        tolerance = float(row.get("error") or RULES.tolerance)
    except (TypeError, ValueError):
        raise InputError(f"'error' must be a number, found {row['error']!r}") from None
    rules = AnswerRules(cast(AnswerType, answer_type), tolerance, multiple=bool(row.get("is_multiple_answer")))
    answers = row.get("final_answer")
    if answers is None:
        return Gold(gold_after_mark(row).answer, rules, row.get("unit"))
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(answers, list) or not answers or not all(isinstance(item, str) and item for item in answers):
        raise InputError("'final_answer' must be a non-empty list of texts")
    return Gold(", ".join(answers), rules, row.get("unit"))


KEYS = ("final_answer", "is_multiple_answer", "unit", "answer_type", "error", "subfield")


def convert(raw: Row, _position: int) -> Row:
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
        **asked(question),
        "reference_solution": f"{solution}\n#### {', '.join(answers)}",
        "source": "olympiadbench",
        **{key: raw.get(key) for key in KEYS},
    }


OLYMPIADBENCH = Benchmark(
    name="olympiadbench",
    title="OlympiadBench",
    kind="math",
    sources=("olympiadbench",),
    expected_problems=674,
    n=8,  # ours; the paper states none
    published=True,
    rules=RULES,
    read_gold=read_gold,
    publisher=Publisher(
        licence="Apache-2.0",
        origin="https://huggingface.co/datasets/Hothan/OlympiadBench, subset OE_TO_maths_en_COMP",
        forms=(
            Form(
                "Hothan/OlympiadBench",
                (("OlympiadBench/OE_TO_maths_en_COMP/*.parquet", "OE_TO_maths_en_COMP/*", "*OE_TO_maths_en_COMP*"),),
                (), ("id", "question", "solution", "final_answer", "subject"), 674, convert,
            ),
            # The same subset as Qwen2.5-Math's evaluation passes it on: one problem more than the publisher has now.
            Form(
                None, (), ("olympiadbench_oe_to_maths_en.jsonl", "olympiadbench.jsonl"),
                ("id", "question", "solution", "final_answer"), 675, convert,
            ),
        ),
    ),
)  # fmt: skip
