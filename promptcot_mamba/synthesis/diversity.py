"""Concepts in numbers: how many, how evenly used, and how far they reach along the stages."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from promptcot_mamba.jsonl import Row


@dataclass(frozen=True)
class Diversity:
    """Of the rows of one stage.

    effective: exp of the entropy of concept use, the number of equally used concepts that would be as diverse; pairs:
    different pairs that stand together; coverage: share of the seeds' concepts that occur.
    """

    rows: int
    concepts: int
    effective: float
    pairs: int
    coverage: float
    counts: Counter[str]


def measure_diversity(rows: Iterable[Row], seed_concepts: Sequence[str]) -> Diversity:
    """Count concepts and pairs over rows with `concepts`."""
    lists = [sorted(set(row["concepts"])) for row in rows]
    counts = Counter(concept for concepts in lists for concept in concepts)
    pairs = {pair for concepts in lists for pair in combinations(concepts, 2)}
    total = counts.total()
    entropy = -sum(n / total * math.log(n / total) for n in counts.values())
    known = set(seed_concepts)
    coverage = len(known & counts.keys()) / len(known) if known else math.nan
    return Diversity(len(lists), len(counts), math.exp(entropy) if counts else 0.0, len(pairs), coverage, counts)
