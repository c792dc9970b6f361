"""MATH-500: 500 competition problems whose golds are LaTeX of every kind, read by their own form."""

from promptcot_mamba.benchmarks.benchmark import Benchmark, Form, Publisher, text
from promptcot_mamba.benchmarks.maths_rows import make_row, released
from promptcot_mamba.jsonl import Row


def convert(raw: Row, position: int) -> Row:
    extra = {key: raw[key] for key in ("unique_id", "subject", "level") if key in raw}
    return make_row(position, text(raw, "problem"), text(raw, "solution"), text(raw, "answer"), "math", **extra)


MATH500 = Benchmark(
    name="math500",
    title="MATH-500",
    kind="math",
    sources=("math",),
    expected_problems=500,
    n=8,  # PromptCoT's table: mean ± SD over 8 runs (arXiv 2503.02324); the Mamba paper states none
    published=True,
    publisher=Publisher(
        licence="MIT",
        origin="https://huggingface.co/datasets/HuggingFaceH4/MATH-500",
        forms=(
            Form(
                "HuggingFaceH4/MATH-500", (("test.jsonl", "*.jsonl", "*.parquet", "data/*.parquet"),), (),
                ("problem", "solution", "answer"), 500, convert,
            ),
            released("math", ("math500.jsonl", "math500_test.jsonl"), 500),
        ),
    ),
)  # fmt: skip
