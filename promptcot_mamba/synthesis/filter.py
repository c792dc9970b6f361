"""Filtering: problems the judges agree on, each once, none of a benchmark.

`unanimous` keeps a problem every judge called perfect; `perfect_without_bad` one that some judge called perfect and
none called bad (the two rules of PromptCoT). An unparseable judgement is never an approval. Near-duplicates and
benchmark problems are found by the data package, as for any training data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.data.decontaminate import BenchmarkText, Decontaminator
from promptcot_mamba.data.dedup import THRESHOLD, find_leaders, make_band_keys, make_shingles, propose_pairs
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, iter_jsonl
from promptcot_mamba.log import get_logger
from promptcot_mamba.synthesis.judge import BAD, PERFECT, UNPARSEABLE
from promptcot_mamba.synthesis.stage import Context

logger = get_logger(__name__)

Rule = Callable[[Sequence[str]], bool]


def is_unanimous(verdicts: Sequence[str]) -> bool:
    """Every judge said perfect."""
    return bool(verdicts) and all(verdict == PERFECT for verdict in verdicts)


def is_perfect_without_bad(verdicts: Sequence[str]) -> bool:
    """Some judge said perfect, none said bad, and all could be read."""
    return PERFECT in verdicts and BAD not in verdicts and UNPARSEABLE not in verdicts


RULES: dict[str, Rule] = {"unanimous": is_unanimous, "perfect_without_bad": is_perfect_without_bad}


@dataclass(frozen=True)
class Settings:
    """rule: a name in RULES; benchmarks: problem files to keep out; near_duplicates: Jaccard index from which on.

    allow_no_benchmarks must be said aloud: problems that were never compared with a benchmark may be in it.
    """

    rule: str = "unanimous"
    benchmarks: list[str] | None = None
    near_duplicates: float = THRESHOLD
    allow_no_benchmarks: bool = False


def run(settings: Settings, context: Context) -> None:
    """judgements.jsonl -> kept_problems.jsonl; what was dropped, and why, in kept_problems.run.json."""
    if settings.rule not in RULES:
        raise InputError(f"filter: unknown rule {settings.rule!r}; known: {', '.join(RULES)}")
    files = [Path(name) for name in settings.benchmarks or []]
    if not files and not settings.allow_no_benchmarks:
        raise InputError("filter: benchmarks is empty; name the problem files, or set allow_no_benchmarks: true")
    rows = context.read("judgements")
    # Not by their stems: a benchmark's problems.jsonl is not the stage's of that name.
    inputs = {"judgements": context.path("judgements"), **{f"benchmark_{i}": file for i, file in enumerate(files)}}
    output = context.output("kept_problems", settings, **inputs)
    if output.complete:
        return
    kept, dropped = filter_problems(rows, settings, [text for file in files for text in read_benchmark(file)])
    logger.info("filter: kept %d of %d problems; dropped: %s", len(kept), len(rows), dict(dropped))
    output.finish(kept, problems=len(rows), **dropped)


def read_benchmark(path: Path) -> Iterable[BenchmarkText]:
    """The questions of a problem file."""
    for number, row in iter_jsonl(path):
        text = row.get("question") or row.get("prompt")
        if not isinstance(text, str):
            raise InputError(f"{path}:{number}: no 'question' or 'prompt'")
        yield BenchmarkText(path.stem, str(number), extract_question(text))


def filter_problems(
    rows: Sequence[Row], settings: Settings, benchmarks: Sequence[BenchmarkText]
) -> tuple[list[Row], Counter[str]]:
    """The rows that pass, in order, and how many were dropped for each reason."""
    dropped: Counter[str] = Counter()
    rule = RULES[settings.rule]
    approved = [row for row in rows if rule(list(row["verdicts"].values()))]
    dropped["not approved"] = len(rows) - len(approved)
    leaders = find_near_duplicates([row["problem"] for row in approved], settings.near_duplicates)
    unique = [row for i, row in enumerate(approved) if leaders[i] == i]
    dropped["duplicate"] = len(approved) - len(unique)
    decontaminator = Decontaminator(benchmarks)
    clean = [row for row in unique if decontaminator.check(row["problem"])[0] is None]
    dropped["benchmark"] = len(unique) - len(clean)
    return clean, dropped


def find_near_duplicates(texts: Sequence[str], threshold: float) -> np.ndarray:
    """(texts) int64: the earlier text each nearly equals, itself where there is none. Equal texts are near."""
    if not texts:
        return np.empty(0, dtype=np.int64)
    shingles = [make_shingles(text) for text in texts]
    keys = np.stack([make_band_keys(own) for own in shingles])  # (texts, bands)
    pairs = propose_pairs(lambda band: keys[:, band], len(texts))
    return find_leaders(pairs, len(texts), shingles.__getitem__, threshold)
