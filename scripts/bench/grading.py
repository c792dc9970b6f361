"""How often, and where, each maths grader errs: strict, paper and math-verify on the same pairs.

    python -m scripts.bench.grading --output grading.json
    python -m scripts.bench.grading --benchmarks_dir data/published --output docs/records/grading.json
    python -m scripts.bench.grading --pairs pairs.jsonl --output docs/records/grading_pairs.json

The audit set (scripts/bench/audit_pairs.txt) is always graded, in the part that the grader was mended against and the
third kept aside. From every gold of the benchmark files it makes format variants (the same answer) and negatives
(another answer); a file of pairs brings its own verdicts in `expected` (`id, gold, pred, expected`, optional `mode`).
math-verify is compared where it is installed, on at most `--math_verify_pairs` pairs a set, drawn at random.
"""

import importlib.util
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.bench_record import RecordTable, render_record_table, write_record
from promptcot_mamba.benchmarks import BENCHMARKS
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math import paper as math_paper
from promptcot_mamba.grading.math import strict as math_strict
from promptcot_mamba.grading.math.answers import unbox
from promptcot_mamba.grading.summary import Figures
from promptcot_mamba.jsonl import iter_jsonl
from scripts.bench.audit import LATER_FILES, Case, is_held_out, read_audit
from scripts.bench.pair_sets import negatives, variants
from scripts.bench.pairs import GRADERS, Pair, grade_pair, read_pair

FILES = {
    "aime24": "aime_test.jsonl",
    "gsm8k": "gsm8k.jsonl",
    "math500": "math500.jsonl",
    "olympiadbench": "olympiadbench_oe_to_maths_en.jsonl",
}
MAX_EXAMPLES = 12


@dataclass
class Arguments:
    output: str = flag("where the figures go, as JSON")
    benchmarks_dir: str | None = flag(f"folder with {', '.join(FILES.values())}", default=None)
    pairs: str | None = flag("a file of pairs with their expected verdicts", default=None)
    math_verify_pairs: int = flag("pairs of a set that math-verify is asked; 0 for none", default=1000)


def benchmark_cases(path: Path, name: str) -> Iterator[Case]:
    """Variants and negatives of every gold of one benchmark file."""
    read_gold = BENCHMARKS[name].read_gold
    assert read_gold is not None, name
    for _, row in iter_jsonl(path):
        gold = read_gold(row)
        for kind, text in variants(gold.answer, gold.rules.multiple):
            yield Case(kind, Pair(gold, unbox(text)), True)
        for kind, text in negatives(gold.answer, gold.rules.multiple):
            yield Case(kind, Pair(gold, text), False)


def pair_cases(path: str) -> Iterator[Case]:
    for number, row in iter_jsonl(path):
        if not isinstance(row.get("expected"), (bool, int)):
            raise InputError(f"{path}:{number}: missing key 'expected' (true or false)")
        yield Case(str(row.get("id", number)), read_pair(row), bool(row["expected"]))


def math_verify_grader() -> Callable[[Pair], bool] | None:
    """math-verify as its README uses it, None where it is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        return None
    from math_verify import parse, verify

    def grade(pair: Pair) -> bool:
        boxed = (
            pair.prediction if pair.mode == "text" or "boxed" in pair.prediction else f"\\boxed{{{pair.prediction}}}"
        )
        return bool(verify(parse(f"${pair.gold.answer}$"), parse(boxed)))

    return grade


def by_our(grader: str) -> Callable[[Pair], bool]:
    return lambda pair: grade_pair(pair, grader).equal


def measure(cases: list[Case], grade: Callable[[Pair], bool]) -> Figures:
    """Accuracy, errors by kind, and CPU seconds of one grader on one set."""
    missed: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    by_kind: dict[str, Counter[bool]] = defaultdict(Counter)
    examples: list[dict[str, str]] = []
    slowest, started = 0.0, time.process_time()
    for case in cases:
        before = time.process_time()
        equal = grade(case.pair)
        slowest = max(slowest, time.process_time() - before)
        if equal != case.equal:
            (accepted if equal else missed)[case.kind] += 1
            if len(examples) < MAX_EXAMPLES:
                examples.append(
                    {"kind": case.kind, "gold": case.pair.gold.answer[-200:], "pred": case.pair.prediction[-200:]}
                )
        by_kind[case.kind][equal == case.equal] += 1
    seconds = time.process_time() - started
    wrong = sum(missed.values()) + sum(accepted.values())
    return {
        "pairs": len(cases),
        "accuracy": 1 - wrong / len(cases),
        "false_negatives": sum(missed.values()),
        "false_positives": sum(accepted.values()),
        "cpu_seconds_per_1000": 1000 * seconds / len(cases),
        "slowest_cpu_seconds": slowest,
        "missed_by_kind": dict(missed.most_common()),
        "accepted_by_kind": dict(accepted.most_common()),
        "right_by_kind": {kind: [counts[True], counts.total()] for kind, counts in by_kind.items()},
        "examples": examples,
    }


def draw(cases: list[Case], at_most: int) -> list[Case]:
    """At most so many cases, drawn at random but always the same."""
    return cases if len(cases) <= at_most else random.Random(0).sample(cases, at_most)


def audit_sets() -> dict[str, list[Case]]:
    """The audit set in its two parts, and what was written afterwards."""
    cases = list(read_audit())
    return {
        "Audit": [case for case in cases if not is_held_out(case)],
        "Audit, kept aside": [case for case in cases if is_held_out(case)],
        **{f"Audit, {name}": list(read_audit(path)) for name, path in LATER_FILES.items()},
    }


def kinds_table(figures: Figures, graders: list[str]) -> RecordTable:
    """Right verdicts by kind of the audit set, all parts together, one column a grader."""
    rows = []
    parts = [figures[title] for title in audit_sets()]
    kinds = dict.fromkeys(kind for part in parts for kind in part[graders[0]]["right_by_kind"])
    for kind in kinds:
        counts = {name: [part[name]["right_by_kind"].get(kind, [0, 0]) for part in parts] for name in graders}
        pairs = sum(count[1] for count in counts[graders[0]])
        cells = [_right_of(sum(c[0] for c in counts[name]), sum(c[1] for c in counts[name]), pairs) for name in graders]
        rows.append([kind, str(pairs), *cells])
    return RecordTable(
        "The audit set by kind: pairs, and right verdicts of each grader.", ["kind", "pairs", *graders], rows
    )


def _right_of(right: int, asked: int, pairs: int) -> str:
    """Right verdicts, with their number where a grader was asked only some of the pairs."""
    return str(right) if asked == pairs else f"{right} of {asked}"


def main() -> int:
    args = parse_args(Arguments, description=__doc__)
    sets = audit_sets()
    if args.benchmarks_dir:
        for name, file in FILES.items():
            sets[BENCHMARKS[name].title.removesuffix(" 2024")] = list(
                benchmark_cases(Path(args.benchmarks_dir) / file, name)
            )
    if args.pairs:
        sets[Path(args.pairs).stem] = list(pair_cases(args.pairs))
    peer = math_verify_grader() if args.math_verify_pairs > 0 else None
    figures: Figures = {}
    header = ["set", "grader", "pairs", "accuracy %", "missed", "accepted", "CPU s / 1000", "slowest s"]
    rows: list[list[str]] = []
    for title, cases in sets.items():
        graders: dict[str, tuple[Callable[[Pair], bool], list[Case]]]
        graders = {name: (by_our(name), cases) for name in GRADERS}
        if peer is not None:
            graders["math-verify"] = (peer, draw(cases, args.math_verify_pairs))
        figures[title] = {name: measure(own, grade) for name, (grade, own) in graders.items()}
        if not title.startswith("Audit"):  # other sets' kinds are shown where they err
            for one in figures[title].values():
                del one["right_by_kind"]
        rows += [figures_row(title, name, one) for name, one in figures[title].items()]
    versions = f"{math_strict.VERSION}, {math_paper.VERSION}"
    tables = [
        RecordTable(f"Graders ({versions}) on audit pairs, golds, their variants and near misses.", header, rows),
        kinds_table(figures, list(figures["Audit"])),
    ]
    print("\n\n".join(render_record_table(table) for table in tables))
    config = {"math_verify_pairs": args.math_verify_pairs}
    write_record(args.output, title="Maths graders", config=config, tables=tables, results=figures)
    return 0


def figures_row(title: str, grader: str, figures: Figures) -> list[str]:
    """One line of the table of sets."""
    counts = [str(figures[key]) for key in ("false_negatives", "false_positives")]
    speed = [f"{figures['cpu_seconds_per_1000']:.3f}", f"{figures['slowest_cpu_seconds']:.3f}"]
    return [title, grader, f"{figures['pairs']:,}", f"{100 * figures['accuracy']:.2f}", *counts, *speed]


if __name__ == "__main__":
    run_program(main)
