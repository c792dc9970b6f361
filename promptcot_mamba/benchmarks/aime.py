"""AIME 2024 and 2025: thirty problems each, integers from 0 to 999, both years in one problem file.

The release's file holds 2024 in the order and words of Maxwell-Jia/AIME_2024 (2024-II-4 first) and 2025 as
opencompass/AIME2025, I then II, whose answers stand alone. It writes one of them `336^\\circ`.
"""

from functools import partial

from promptcot_mamba.benchmarks.benchmark import Benchmark, Form, Publisher
from promptcot_mamba.benchmarks.maths_rows import from_columns, released
from promptcot_mamba.grading.math.gold import AnswerRules

LICENCE = "problems by the Mathematical Association of America; data set MIT"
PROBLEM_FILE = "aime_test.jsonl"

# 16 samples a problem: arXiv 2505.22425.
_AIME = partial(
    Benchmark, kind="math", expected_problems=30, n=16, published=True, problem_file=PROBLEM_FILE,
    rules=AnswerRules(type="integer"),
)  # fmt: skip

AIME24 = _AIME(
    name="aime24",
    title="AIME 2024",
    sources=("aime2024",),
    publisher=Publisher(
        LICENCE,
        "https://huggingface.co/datasets/Maxwell-Jia/AIME_2024",
        (
            Form(
                "Maxwell-Jia/AIME_2024", (("*.jsonl", "*.parquet", "data/*.parquet"),), (),
                ("ID", "Problem", "Solution", "Answer"), 30, from_columns("aime2024", "Problem", "Solution", "Answer"),
            ),
            Form(
                "HuggingFaceH4/aime_2024", (("data/*.parquet", "*.parquet", "*.jsonl"),), (),
                ("problem", "solution", "answer"), 30, from_columns("aime2024", "problem", "solution", "answer"),
            ),
            released("aime2024", (PROBLEM_FILE,), 30),
        ),
    ),
)  # fmt: skip

AIME25 = _AIME(
    name="aime25",
    title="AIME 2025",
    sources=("aime2025",),
    publisher=Publisher(
        LICENCE,
        "https://huggingface.co/datasets/opencompass/AIME2025",
        (
            Form(
                "opencompass/AIME2025",
                (("aime2025-I.jsonl", "AIME2025-I/*"), ("aime2025-II.jsonl", "AIME2025-II/*")),
                (), ("question", "answer"), 30, from_columns("aime2025", "question", None, "answer", first=30),
            ),
            released("aime2025", (PROBLEM_FILE,), 30),
        ),
    ),
)  # fmt: skip
