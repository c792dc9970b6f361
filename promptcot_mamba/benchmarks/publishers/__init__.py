"""Where each benchmark comes from, and how its publisher's rows become problem rows: one line a benchmark."""

from __future__ import annotations

from promptcot_mamba.benchmarks.publishers import code, livecodebench, maths
from promptcot_mamba.benchmarks.publishers.publisher import Form, Publisher

PUBLISHERS: dict[str, Publisher] = {
    "aime24": maths.AIME24,
    "aime25": maths.AIME25,
    "math500": maths.MATH500,
    "olympiadbench": maths.OLYMPIADBENCH,
    "gsm8k": maths.GSM8K,
    "humaneval": code.HUMANEVAL,
    "humanevalplus": code.HUMANEVALPLUS,
    "livecodebench": livecodebench.LIVECODEBENCH,
}

__all__ = ["PUBLISHERS", "Form", "Publisher"]
