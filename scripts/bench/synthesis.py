"""Stopwatch of the concept sampler: sets drawn from many concepts, with and without embeddings.

    python -m scripts.bench.synthesis --concepts 50000 --sets 100000 --record docs/records/synthesis.json

Concepts are made: Zipf-distributed over seed problems of five each, within topics, with embeddings that cluster by
topic. Start-up of the worker processes is counted.
"""

import os
import time
from dataclasses import dataclass

import numpy as np

from promptcot_mamba.bench_record import report_record, tabulate
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.log import logger
from promptcot_mamba.synthesis.concept_sampling import ConceptTable, Weights, draw_sets, make_concept_table

COLUMNS = (
    ("concepts", "{concepts:,}"),
    ("embedding", "{embedding}"),
    ("pairs", "{pairs:,}"),
    ("sets", "{sets:,}"),
    ("processes", "{workers}"),
    ("s", "{seconds:.0f}"),
    ("sets/s", "{rate:,.0f}"),
    ("different %", "{share:.1f}"),
)
PER_PROBLEM = 5
TOPICS = 200


@dataclass
class BenchArguments:
    concepts: int = flag("different concepts", default=50_000)
    problems: int = flag("seed problems they are counted over", default=100_000)
    sets: int = flag("sets to draw", default=100_000)
    size: int = flag("concepts a set", default=5)
    width: int = flag("of an embedding; 384 is that of small sentence models", default=384)
    temperature: float = flag("of the draws", default=0.2)
    workers: int = flag("processes; default: one a core", default=0)
    record: str | None = flag("JSON file that the figures are written to", default=None)
    seed: int = flag("of concepts and draws", default=0)


def make_lists(args: BenchArguments) -> list[list[str]]:
    """Concepts of each problem: those of one topic, the common ones more often (Zipf)."""
    rng = np.random.default_rng(args.seed)
    most = args.concepts // TOPICS
    shares = 1 / np.arange(1, most + 1)
    topics = rng.integers(TOPICS, size=args.problems)
    ranks = rng.choice(most, size=(args.problems, PER_PROBLEM), p=shares / shares.sum())
    lists = [[f"t{topic} c{rank}" for rank in own] for topic, own in zip(topics, ranks.tolist(), strict=True)]
    return [*lists, *([f"t{topic} c{rank}"] for topic in range(TOPICS) for rank in range(most))]  # each at least once


def make_embeddings(names: list[str], args: BenchArguments) -> dict[str, np.ndarray]:
    """Vectors about their topic's own: cosines near 0.4 within a topic and near 0 across."""
    rng = np.random.default_rng(args.seed + 1)
    centres = {f"t{topic}": rng.normal(size=args.width) for topic in range(TOPICS)}
    return {name: centres[name.split()[0]] + 1.2 * rng.normal(size=args.width) for name in names}


def measure(table: ConceptTable, args: BenchArguments, workers: int) -> dict:
    """Draw all sets once; seconds, sets a second, and how many of them differ."""
    started = time.perf_counter()
    seen = set()
    for i, names in enumerate(draw_sets(table, args.sets, args.size, Weights(args.temperature), 0, workers=workers)):
        seen.add(frozenset(names))
        if i == 0:
            logger.info("first set after %.1f s: %s", time.perf_counter() - started, ", ".join(names))
    seconds = time.perf_counter() - started
    return {
        "concepts": len(table),
        "width": 0 if table.embeddings is None else args.width,
        "pairs": table.association.nnz // 2,
        "sets": args.sets,
        "different": len(seen),
        "workers": workers,
        "seconds": seconds,
    }


def main() -> None:
    args = parse_args(BenchArguments, description=__doc__)
    workers = args.workers or len(os.sched_getaffinity(0))
    lists = make_lists(args)
    names = sorted({name for own in lists for name in own})
    results = []
    for embeddings in (None, make_embeddings(names, args)):
        results.append(measure(make_concept_table(lists, embeddings), args, workers))
        logger.info("%s", results[-1])
    caption = f"Draw sets of {args.size} concepts at temperature {args.temperature:g}."
    rows = [
        row | {"embedding": row["width"] or "none", "rate": row["sets"] / row["seconds"],
               "share": 100 * row["different"] / row["sets"]}
        for row in results
    ]  # fmt: skip
    drawn = tabulate(caption, COLUMNS, rows)
    report_record(args, title="Concept sampling", tables=[drawn], results=results)


if __name__ == "__main__":
    run_program(main)
