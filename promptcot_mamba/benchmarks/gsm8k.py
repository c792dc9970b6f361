"""GSM8K test: 1,319 word problems with integer answers, some written with thousands separators."""

from promptcot_mamba.benchmarks.benchmark import Benchmark, Form, Publisher, asked, text
from promptcot_mamba.benchmarks.maths_rows import released
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math.gold import AnswerRules
from promptcot_mamba.jsonl import Row


def convert(raw: Row, position: int) -> Row:
    """The publisher's answer holds the worked solution and the gold after `####`."""
    answer = text(raw, "answer")
    if "####" not in answer:
        raise InputError("column 'answer' has no '####'; did the schema change?")
    return {"idx": position, **asked(text(raw, "question")), "reference_solution": answer, "source": "gsm8k"}


GSM8K = Benchmark(
    name="gsm8k",
    title="GSM8K",
    kind="math",
    sources=("gsm8k",),
    expected_problems=1319,
    n=8,  # PromptCoT's table: mean ± SD over 8 runs (arXiv 2503.02324)
    published=True,
    rules=AnswerRules(type="numerical"),
    minerva=False,
    publisher=Publisher(
        licence="MIT",
        origin="https://huggingface.co/datasets/openai/gsm8k",
        forms=(
            Form(
                "openai/gsm8k", (("main/test-*.parquet", "main/test*.jsonl", "test*.jsonl"),), (),
                ("question", "answer"), 1319, convert,
            ),
            released("gsm8k", ("gsm8k.jsonl", "gsm8k_test.jsonl"), 1319),
        ),
    ),
)  # fmt: skip
