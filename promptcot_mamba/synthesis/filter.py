"""Filtering: problems the judges agree on, each once, none of a benchmark.

`unanimous` keeps a problem every judge called perfect; `perfect_without_bad` one that some judge called perfect and
none called bad (the two rules of PromptCoT); `weighted` one whose judges' mean score reaches `least`. An unparseable
judgement is never an approval. What judges approve may still have a fault that words show (`faults`). Near-duplicates
and benchmark problems are found by the data package, as for any training data.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.data.decontaminate import BenchmarkText, Decontaminator
from promptcot_mamba.data.dedup import THRESHOLD, find_leaders, make_band_keys, make_shingles, propose_pairs
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, iter_jsonl, write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import side_path
from promptcot_mamba.synthesis.faults import BARE, INJECTED, NOTHING, STATED, find_fault
from promptcot_mamba.synthesis.judgement import UNPARSEABLE
from promptcot_mamba.synthesis.ratings import BAD, PERFECT
from promptcot_mamba.synthesis.spending import is_amount
from promptcot_mamba.synthesis.stage import LATER, Context

Rule = Callable[[Sequence[str]], bool]


def is_unanimous(verdicts: Sequence[str]) -> bool:
    """Every judge said perfect."""
    return bool(verdicts) and all(verdict == PERFECT for verdict in verdicts)


def is_perfect_without_bad(verdicts: Sequence[str]) -> bool:
    """Some judge said perfect, none said bad, and all could be read."""
    return PERFECT in verdicts and BAD not in verdicts and UNPARSEABLE not in verdicts


RULES: dict[str, Rule] = {"unanimous": is_unanimous, "perfect_without_bad": is_perfect_without_bad}
WEIGHTED = "weighted"
CALIBRATED = "calibrated"
FAULTS = (STATED, NOTHING, BARE, INJECTED)


@dataclass(frozen=True)
class Settings:
    """rule: a name in RULES; benchmarks: problem files to keep out; near_duplicates: Jaccard index from which on.

    allow_no_benchmarks must be said aloud: problems that were never compared with a benchmark may be in it.
    least: with the rule `weighted`, the mean score (0 to 1) from which on a problem is approved; weights: of judges, 1
    where none is given, or `calibrated` for those of calibration.jsonl. allow_faults: those of FAULTS that may pass.
    """

    rule: str = "unanimous"
    benchmarks: list[str] | None = None
    near_duplicates: float = THRESHOLD
    allow_no_benchmarks: bool = False
    least: float = field(default=0.8, metadata=LATER)
    weights: dict[str, float] | str | None = field(default=None, metadata=LATER)
    allow_faults: list[str] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.rule not in (*RULES, WEIGHTED):
            raise InputError(f"unknown rule {self.rule!r}; known: {', '.join((*RULES, WEIGHTED))}")
        if self.weights is not None and self.rule != WEIGHTED:
            raise InputError(f"weights are of the rule {WEIGHTED!r}, and the rule is {self.rule!r}")
        if not isinstance(self.weights, dict) and self.weights not in (None, CALIBRATED):
            raise InputError(f"weights {self.weights!r}: expected a mapping of judges to weights, or {CALIBRATED}")
        for name, weight in self.weights.items() if isinstance(self.weights, dict) else ():
            if not is_amount(weight):
                raise InputError(f"weights: {name}: {weight!r} is no weight; expected a number of 0 or more")
        if not 0 < self.least <= 1:
            raise InputError(f"least {self.least}: must be in (0, 1]")
        if unknown := sorted(set(self.allow_faults or ()) - set(FAULTS)):
            raise InputError(f"allow_faults: unknown {unknown[0]!r}; known: {', '.join(FAULTS)}")


def run(settings: Settings, context: Context) -> None:
    """judgements.jsonl -> kept_problems.jsonl; what was dropped, and why, in kept_problems.run.json."""
    files = [Path(name) for name in settings.benchmarks or []]
    if not files and not settings.allow_no_benchmarks:
        raise InputError("filter: benchmarks is empty; name the problem files, or set allow_no_benchmarks: true")
    rows = context.read("judgements")
    # Not by their stems: a benchmark's problems.jsonl is not the stage's of that name.
    inputs = {"judgements": context.path("judgements"), **{f"benchmark_{i}": file for i, file in enumerate(files)}}
    weights = settings.weights if isinstance(settings.weights, dict) else {}
    if settings.weights == CALIBRATED:
        inputs["calibration"] = context.path("calibration")
        weights = {row["judge"]: row["weight"] for row in context.read("calibration")}
    check_judges_of(rows, settings, weights)
    output = context.output("kept_problems", settings, **inputs)
    if output.complete:
        return
    texts = [text for file in files for text in read_benchmark(file)]
    kept, dropped, faulty = filter_problems(rows, settings, texts, weights)
    logger.info("filter: kept %d of %d problems; dropped: %s", len(kept), len(rows), dict(dropped))
    write_jsonl(side_path(output.path, "rejected.jsonl"), faulty)
    output.finish(kept, problems=len(rows), **dropped)


def check_judges_of(rows: Sequence[Row], settings: Settings, weights: Mapping[str, float]) -> None:
    """Raises InputError for weights of judges that did not judge, all of nothing, or judgements without scores."""
    if settings.rule != WEIGHTED or not rows:
        return
    judges = rows[0]["verdicts"]
    if settings.weights != CALIBRATED and (unknown := sorted(set(weights) - set(judges))):
        raise InputError(f"filter: weights: {unknown[0]!r} is none of the judges {', '.join(judges)}")
    if settings.weights == CALIBRATED and (missing := [name for name in judges if name not in weights]):
        raise InputError(f"filter: weights: calibration.jsonl has no judge {missing[0]!r}; calibrate the same models")
    if not any(weights.get(name, 1.0) for name in judges):
        raise InputError("filter: weights: every judge weighs 0, so nothing can be approved; see calibration.jsonl")
    if "scores" not in rows[0]:
        raise InputError("filter: judgements.jsonl has no scores; move it away and run the stage judge again")


def read_benchmark(path: Path) -> Iterable[BenchmarkText]:
    """The questions of a problem file."""
    for number, row in iter_jsonl(path):
        text = row.get("question") or row.get("prompt")
        if not isinstance(text, str):
            raise InputError(f"{path}:{number}: no 'question' or 'prompt'")
        yield BenchmarkText(path.stem, str(number), extract_question(text))


def filter_problems(
    rows: Sequence[Row],
    settings: Settings,
    benchmarks: Sequence[BenchmarkText],
    weights: Mapping[str, float] | None = None,
) -> tuple[list[Row], Counter[str], list[Row]]:
    """The rows that pass, in order; how many were dropped for each reason; those approved that have a fault."""
    dropped: Counter[str] = Counter()
    approved = [row for row in rows if is_approved(row, settings, weights or {})]
    dropped["not approved"] = len(rows) - len(approved)
    faults = {row["key"]: fault for row in approved if (fault := find_fault(row["problem"]))}
    faults = {key: fault for key, fault in faults.items() if fault not in (settings.allow_faults or ())}
    dropped += Counter(faults.values())
    faulty = [{**row, "reason": faults[row["key"]]} for row in approved if row["key"] in faults]
    sound = [row for row in approved if row["key"] not in faults]
    leaders = find_near_duplicates([row["problem"] for row in sound], settings.near_duplicates)
    unique = [row for i, row in enumerate(sound) if leaders[i] == i]
    decontaminator = Decontaminator(benchmarks)
    clean = [row for row in unique if decontaminator.check(row["problem"])[0] is None]
    lost = {"duplicate": len(sound) - len(unique), "benchmark": len(unique) - len(clean)}
    return clean, Counter({**dropped, **lost}), faulty


def is_approved(row: Row, settings: Settings, weights: Mapping[str, float]) -> bool:
    """Whether the judges let a problem pass."""
    if settings.rule != WEIGHTED:
        return RULES[settings.rule](list(row["verdicts"].values()))
    counted = {name: weights.get(name, 1.0) for name in row["verdicts"] if weights.get(name, 1.0)}
    scores = {name: row["scores"][name] for name in counted}
    if None in scores.values():
        return False
    mean = sum(counted[name] * scores[name] for name in counted) / sum(counted.values())
    return mean >= settings.least - 1e-9


def find_near_duplicates(texts: Sequence[str], threshold: float) -> np.ndarray:
    """(texts) int64: the earlier text each nearly equals, itself where there is none. Equal texts are near."""
    if not texts:
        return np.empty(0, dtype=np.int64)
    shingles = [make_shingles(text) for text in texts]
    keys = np.stack([make_band_keys(own) for own in shingles])  # (texts, bands)
    pairs = propose_pairs(lambda band: keys[:, band], len(texts))
    return find_leaders(pairs, len(texts), shingles.__getitem__, threshold)
