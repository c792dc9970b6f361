"""Score sampled programs against LiveCodeBench's tests, in a sandbox: pass@1 over runs.

python calc_acc_lcb.py --input_path data/livecodebench_v5_predictions.jsonl --cache_path cache/livecodebench_v5.jsonl

Verdicts are appended to the cache as they are found, so a stopped job resumes. Tests are read from `--tests_dir` in
the published layout: each row's `tests` names `fname` and `md5`.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code_extract import extract_program
from promptcot_mamba.grading.code_grading import CodeJob, SandboxPool, grade_jobs
from promptcot_mamba.grading.code_sandbox import Limits, assert_unreadable
from promptcot_mamba.grading.code_tests import TestSet, load_tests, run_tests, sample_tests
from promptcot_mamba.grading.metrics import clustered_mean, run_spread
from promptcot_mamba.grading.predictions import Prediction, missing_runs, read_predictions
from promptcot_mamba.jsonl import Row, write_json, write_jsonl
from promptcot_mamba.log import get_logger
from promptcot_mamba.records import Grade
from promptcot_mamba.run_info import side_path

logger = get_logger(__name__)

TESTS_ENV = "LIVECODEBENCH_TESTS"
DEFAULT_TESTS = "data/livecodebench_v5_tests"


@dataclass
class Arguments:
    input_path: str = field(metadata={"help": "prediction rows: completion, tests {fname, md5}, question_id[, run]"})
    cache_path: str | None = field(default=None, metadata={"help": "verdicts are appended here and reused"})
    tests_dir: str | None = field(
        default=None, metadata={"help": f"folder of test files; else ${TESTS_ENV}, else {DEFAULT_TESTS}"}
    )
    sample_tests: bool = field(
        default=False, metadata={"help": "where a tests file is absent, use the statement's samples; kept apart"}
    )
    expected_runs: int | None = field(default=None, metadata={"help": "samples a problem should have"})
    strict_runs: bool = field(default=False, metadata={"help": "exit with 1 where runs are missing"})
    timeout: int = field(default=6, metadata={"help": "CPU seconds a test may take"})
    memory_mb: int = field(default=4096, metadata={"help": "memory a test may take, in MiB"})
    workers: int | None = field(default=None, metadata={"help": "sandboxes at work at once; default: one a core"})
    all_tests: bool = field(default=False, metadata={"help": "go on after a program's first failed test"})
    sandbox: str | None = field(
        default=None, metadata={"help": "namespaces or landlock; default: the strongest there is"}
    )
    unsafe: bool = field(default=False, metadata={"help": "run programs unprotected where no sandbox can be made"})


def find_tests(predictions: list[Prediction], tests_dir: Path, samples: bool, path: str) -> dict[str, TestSet]:
    """The tests of every problem. Raises InputError for the first problem without."""
    found: dict[str, TestSet] = {}
    for one in predictions:
        if one.problem_id in found:
            continue
        try:
            found[one.problem_id] = load_tests(one.row, tests_dir, f"{path}:{one.line}")
        except InputError as error:
            from_statement = sample_tests(one.row.get("prompt") or one.row.get("question") or "") if samples else None
            if from_statement is None:
                if samples:
                    logger.warning("problem %s has no tests and no samples; left out", one.problem_id)
                    continue
                raise InputError(f"{error}; or pass --sample_tests") from None
            found[one.problem_id] = from_statement
    if not found:
        raise InputError(f"{path}: no problem has tests or samples")
    return found


def make_job(one: Prediction, tests: TestSet, stop_early: bool) -> CodeJob:
    program = extract_program(one.completion, one.row.get("finish_reason"))
    grade = partial(run_tests, code=program.code or "", tests=tests, stop_early=stop_early)
    return CodeJob(one.problem_id, one.run, program.code, program.reason, tests.md5, grade, tests.kind)


def to_grade(job: CodeJob, row: Row) -> Grade:
    extra = {key: row[key] for key in ("tests", "total_tests", "sandbox", "key") if key in row}
    benchmark = "livecodebench" if job.kind == "livecodebench" else "livecodebench-samples"
    return Grade(
        job.question_id, job.run, benchmark, job.kind, row["passed"], job.code, row["reason"], row["seconds"], extra
    )


def print_table(grades: list[Grade]) -> dict[str, Row]:
    """One line a kind of tests; the samples of statements never count as LiveCodeBench."""
    metrics: dict[str, Row] = {}
    titles = f"{'pass@1':>7} {'95% interval':>16} {'mean ± SD over runs':>20} {'problems':>9} {'samples':>8}"
    print(f"{'benchmark':<22} {titles}")
    for name in sorted({grade.benchmark for grade in grades}):
        scores: dict[str, dict[int, float]] = defaultdict(dict)
        for grade in grades:
            if grade.benchmark == name:
                scores[grade.problem_id][grade.run] = float(grade.correct)
        mean = clustered_mean({problem: list(runs.values()) for problem, runs in scores.items()})
        spread = run_spread(scores)
        reasons = Counter(grade.reason for grade in grades if grade.benchmark == name)
        interval = f"{100 * mean.low:.1f} – {100 * mean.high:.1f}"
        over_runs = f"{100 * spread.mean:.1f} ± {100 * spread.sd:.1f}"
        print(f"{name:<22} {100 * mean.mean:>7.1f} {interval:>16} {over_runs:>20} {mean.problems:>9} {mean.samples:>8}")
        print("  " + ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()))
        metrics[name] = {
            "pass_at_1": mean.mean, "standard_error": _finite(mean.standard_error), "low": _finite(mean.low),
            "high": _finite(mean.high), "problems": mean.problems, "samples": mean.samples,
            "mean_over_runs": spread.mean, "sd_over_runs": _finite(spread.sd), "reasons": dict(reasons),
        }  # fmt: skip
    return metrics


def _finite(value: float) -> float | None:
    return value if value == value else None


def main() -> int:
    args = parse_args(Arguments, description=__doc__)
    tests_dir = Path(args.tests_dir or os.environ.get(TESTS_ENV) or DEFAULT_TESTS)
    predictions = read_predictions(args.input_path)
    lacking = missing_runs(predictions, args.expected_runs) if args.expected_runs else {}
    for name, runs in lacking.items():
        logger.warning("%s: problem %s lacks runs %s", args.input_path, name, ", ".join(map(str, runs)))
    tests = find_tests(predictions, tests_dir, args.sample_tests, args.input_path)
    assert_unreadable(tests_dir, "--tests_dir")
    limits = Limits(cpu_seconds=args.timeout, wall_seconds=2.5 * args.timeout, memory_mb=args.memory_mb)
    jobs = [make_job(one, tests[one.problem_id], not args.all_tests) for one in predictions if one.problem_id in tests]
    with SandboxPool(args.workers, limits, args.sandbox, args.unsafe) as pool:
        grades = [to_grade(job, row) for job, row in grade_jobs(jobs, pool, args.cache_path)]
        label = pool.label
    write_jsonl(side_path(args.input_path, "grades.jsonl"), (grade.to_row() for grade in grades))
    metrics = print_table(grades)
    print(f"sandbox: {label}")
    write_json(side_path(args.input_path, "metrics.json"), {"sandbox": label, "limits": limits.to_row(), **metrics})
    return 1 if lacking and args.strict_runs else 0


if __name__ == "__main__":
    run_program(main)
