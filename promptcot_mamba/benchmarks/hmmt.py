"""HMMT February 2025: thirty problems whose answers are numbers, exact expressions and, once, two roots in any order.

Not in the papers' tables.
"""

from promptcot_mamba.benchmarks.benchmark import Benchmark, Publisher
from promptcot_mamba.benchmarks.maths_rows import matharena

HMMT25 = Benchmark(
    name="hmmt25",
    title="HMMT February 2025",
    kind="math",
    sources=("hmmt_feb_2025",),
    expected_problems=30,
    n=16,  # as the papers' AIME
    publisher=Publisher(
        licence="CC BY-NC-SA 4.0; problems by HMMT",
        origin="https://huggingface.co/datasets/MathArena/hmmt_feb_2025",
        forms=(matharena("hmmt_feb_2025", "hmmt_feb_2025", 30),),
    ),
)
