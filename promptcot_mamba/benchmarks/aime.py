"""AIME 2024 and 2025: thirty problems each, integers from 0 to 999, both years in one problem file.

The release's file holds 2024 in the order and words of Maxwell-Jia/AIME_2024 (2024-II-4 first) and 2025 as
opencompass/AIME2025, I then II, whose answers stand alone. It writes one of them `336^\\circ`. HuggingFaceH4/aime_2024
holds the same problems in another order (I-1, I-10, ...), each with the `url` of its page: it is numbered by that.
"""

import re
from functools import partial

from promptcot_mamba.benchmarks.benchmark import Benchmark, Form, Publisher, text
from promptcot_mamba.benchmarks.maths_rows import Convert, from_columns, released
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math.gold import AnswerRules
from promptcot_mamba.jsonl import Row

LICENCE = "problems by the Mathematical Association of America; data set MIT"
PROBLEM_FILE = "aime_test.jsonl"

# Contest and number of the problems with idx 0 to 29: Maxwell-Jia's order.
ORDER_2024 = [
    "II-4", "II-12", "I-4", "I-3", "I-8", "I-12", "I-11", "II-11", "I-2", "II-6", "I-7", "II-3", "I-1", "II-7", "I-6",
    "I-13", "I-15", "II-15", "II-10", "II-9", "II-14", "II-5", "I-9", "II-2", "II-1", "I-10", "II-8", "I-14", "I-5",
    "II-13",
]  # fmt: skip
_PAGE = re.compile(r"/2024_AIME_(II?)_Problems/Problem_(\d+)/?\s*")


def by_page(convert: Convert) -> Convert:
    """A converter that numbers a row by its problem's page (`url`), whatever its place in the file.

    The converter raises InputError for a page of no problem of 2024.
    """

    def numbered(raw: Row, _position: int) -> Row | None:
        page = _PAGE.search(text(raw, "url"))
        name = page and f"{page[1]}-{page[2]}"
        if name not in ORDER_2024:
            raise InputError(f"column 'url' names no problem of AIME 2024: {raw['url']!r:.120}")
        return convert(raw, ORDER_2024.index(name))

    return numbered


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
                ("problem", "solution", "answer", "url"), 30,
                by_page(from_columns("aime2024", "problem", "solution", "answer")),
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
