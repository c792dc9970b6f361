"""AIME 2026, I and II: thirty integers from 0 to 999. Not in the papers' tables."""

from promptcot_mamba.benchmarks.benchmark import Benchmark, Publisher
from promptcot_mamba.benchmarks.maths_rows import matharena
from promptcot_mamba.grading.math.gold import AnswerRules

AIME26 = Benchmark(
    name="aime26",
    title="AIME 2026",
    kind="math",
    sources=("aime2026",),
    expected_problems=30,
    n=16,  # as the papers' AIME
    rules=AnswerRules(type="integer"),
    publisher=Publisher(
        licence="CC BY-NC-SA 4.0; problems by the Mathematical Association of America",
        origin="https://huggingface.co/datasets/MathArena/aime_2026",
        forms=(matharena("aime_2026", "aime2026", 30),),
    ),
)
