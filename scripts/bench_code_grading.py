"""What grading a test costs beside the program itself, and how long a LiveCodeBench-sized file takes.

    python -m scripts.bench_code_grading
    python -m scripts.bench_code_grading --problems 279 --runs 8 --tests 20 --workers 2

Programs are trivial, so that what is measured is the sandbox. CPU time counts this process, its fork servers, their
start and every program's process. Writes docs/records/code_grading.json.
"""

from __future__ import annotations

import resource
import time
from dataclasses import asdict, dataclass, field

from promptcot_mamba.bench_record import RecordTable, render_record_table, write_record
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code_grading import CodeJob, SandboxPool, grade_jobs
from promptcot_mamba.grading.code_sandbox import SAFE_LEVELS
from promptcot_mamba.grading.code_tests import TestSet, run_tests
from promptcot_mamba.jsonl import Row

PROGRAM = "print(sum(map(int, input().split())))  # sample {sample}\n"


@dataclass
class Arguments:
    problems: int = field(default=20, metadata={"help": "LiveCodeBench v5 has 279"})
    runs: int = field(default=4, metadata={"help": "samples a problem"})
    tests: int = field(default=20, metadata={"help": "tests a problem"})
    workers: int | None = field(default=None, metadata={"help": "sandboxes at work at once; default: one a core"})
    levels: list[str] = field(default_factory=lambda: list(SAFE_LEVELS), metadata={"help": "sandbox levels to time"})
    record: str = field(default="docs/records/code_grading.json", metadata={"help": "where to write"})


def cpu_seconds() -> float:
    """CPU time of this process and of all that it has started and that has ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def make_jobs(args: Arguments) -> list[CodeJob]:
    jobs = []
    for problem in range(args.problems):
        inputs = tuple(f"{problem} {test}\n" for test in range(args.tests))
        outputs = tuple(f"{problem + test}\n" for test in range(args.tests))
        tests = TestSet(inputs, outputs, None, f"bench-{problem}")
        for run in range(args.runs):
            code = PROGRAM.format(sample=f"{problem}/{run}")

            def grade(sandbox, code=code, tests=tests):
                return run_tests(sandbox, code, tests)

            jobs.append(CodeJob(str(problem), run, code, None, tests.md5, grade, "bench", "bench"))
    return jobs


def time_level(level: str, args: Arguments) -> Row:
    """Grade every job at one level. Raises InputError if a verdict is wrong."""
    jobs = make_jobs(args)
    started, spent = time.monotonic(), cpu_seconds()
    with SandboxPool(args.workers, level=level) as pool:
        rows = [row for _, row in grade_jobs(jobs, pool)]
        workers, label = pool.workers, pool.label
    wall, cpu = time.monotonic() - started, cpu_seconds() - spent
    if not all(row["passed"] for row in rows):
        raise InputError(f"{level}: a right program was refused: {rows[0]}")
    count = len(jobs) * args.tests
    return {
        "sandbox": label,
        "workers": workers,
        "tests": count,
        "wall_seconds": wall,
        "cpu_ms_per_test": 1e3 * cpu / count,
    }


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    results = []
    for level in args.levels:
        result = time_level(level, args)
        results.append(result)
    table = make_table(results)
    print(render_record_table(table))
    title = "Grading programs in the sandbox"
    write_record(args.record, title=title, config=asdict(args), tables=[table], results=results)


def make_table(results: list[Row]) -> RecordTable:
    """Seconds and CPU per test at each level."""
    rows = [
        [
            result["sandbox"],
            f"{result['tests']:,}",
            str(result["workers"]),
            f"{result['wall_seconds']:.1f}",
            f"{result['cpu_ms_per_test']:.2f}",
        ]
        for result in results
    ]
    caption = "Trivial programs, every test in a fresh process."
    return RecordTable(caption, ["sandbox", "tests", "workers", "wall s", "CPU ms a test"], rows)


if __name__ == "__main__":
    run_program(main)
