"""What the sandbox costs a test beside the program itself, and how long a LiveCodeBench-sized file takes.

    python -m scripts.bench.code_grading    # a file like LiveCodeBench v5: five minutes on two cores
    python -m scripts.bench.code_grading --problems 20 --record /tmp/look.json

Programs are trivial. The program itself is what the same tests cost without a sandbox: a bare fork of a warm Python for
each, which runs the same code on the same input. CPU time counts this process, its fork servers, their start and every
program's process. Bare and each level take turns, so that a machine whose speed drifts is the same to all; overhead is
the mean difference from the bare forks of the same turn, with its standard error over turns. The start of the servers
counts once a turn. Writes docs/records/code_grading.json.
"""

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np

from promptcot_mamba.bench_record import report_record, tabulate
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code.grading import CodeJob, SandboxPool, grade_jobs
from promptcot_mamba.grading.code.tests import TestSet, run_tests
from promptcot_mamba.grading.sandbox.sandbox import SAFE_LEVELS
from promptcot_mamba.jsonl import Row

PROGRAM = "print(sum(map(int, input().split())))  # sample {sample}\n"
BARE = "bare fork"
COLUMNS = (
    ("sandbox", "{sandbox}"),
    ("tests", "{tests:,}"),
    ("wall s", "{wall_seconds:.1f}"),
    ("CPU ms a test", "{cpu_ms_per_test:.2f}"),
    ("overhead, CPU ms", "{overhead}"),
)
# Reads [[code, inputs], ...] and forks once a test, with nothing in the program's way.
BARE_LOOP = """
import json, os, sys
for code, inputs in json.load(sys.stdin):
    for text in inputs:
        given, taken = os.memfd_create("stdin"), os.memfd_create("stdout")
        os.write(given, text.encode())
        os.lseek(given, 0, 0)
        if not (child := os.fork()):
            os.dup2(given, 0)
            os.dup2(taken, 1)
            sys.stdin, sys.stdout = open(0), open(1, "w")
            exec(compile(code, "program", "exec"), {"__name__": "__main__"})
            sys.stdout.flush()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        os.close(given)
        os.close(taken)
"""


@dataclass
class Arguments:
    problems: int = flag("LiveCodeBench v5 has 279", default=279)
    runs: int = flag("samples a problem", default=8)
    tests: int = flag("tests a problem", default=20)
    workers: int | None = flag("sandboxes at work at once; default: one a core", default=None)
    levels: list[str] = flag("sandbox levels to time", factory=lambda: list(SAFE_LEVELS))
    rounds: int = flag("turns, each with its share of a problem's samples", default=4)
    record: str = flag("where to write", default="docs/records/code_grading.json")


def cpu_seconds() -> float:
    """CPU time of this process and of all that it has started and that has ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def make_tests(args: Arguments) -> list[TestSet]:
    sets = []
    for problem in range(args.problems):
        inputs = tuple(f"{problem} {test}\n" for test in range(args.tests))
        outputs = tuple(f"{problem + test}\n" for test in range(args.tests))
        sets.append(TestSet(inputs, outputs, None, f"bench-{problem}"))
    return sets


def make_jobs(args: Arguments, runs: range) -> list[CodeJob]:
    jobs = []
    for problem, tests in enumerate(make_tests(args)):
        for run in runs:
            code = PROGRAM.format(sample=f"{problem}/{run}")

            def grade(sandbox, code=code, tests=tests):
                return run_tests(sandbox, code, tests)

            jobs.append(CodeJob(str(problem), run, code, None, tests.md5, grade, "bench", "bench"))
    return jobs


def time_level(level: str, args: Arguments, runs: range) -> Row:
    """Grade these samples of every problem at one level. Raises InputError if a verdict is wrong."""
    jobs = make_jobs(args, runs)
    started, spent = time.monotonic(), cpu_seconds()
    with SandboxPool(args.workers, level=level) as pool:
        rows = [row for _, row in grade_jobs(jobs, pool)]
        name = f"{pool.label}, {pool.workers} at once"
    wall, cpu = time.monotonic() - started, cpu_seconds() - spent
    if not all(row["passed"] for row in rows):
        raise InputError(f"{level}: a right program was refused: {rows[0]}")
    return {"sandbox": name, "tests": len(jobs) * args.tests, "wall_seconds": wall, "cpu_seconds": cpu}


def time_bare(args: Arguments, runs: range) -> Row:
    """The same programs on the same inputs, one after another in bare forks."""
    jobs = [
        [PROGRAM.format(sample=f"{n}/{run}"), tests.inputs] for n, tests in enumerate(make_tests(args)) for run in runs
    ]
    started, spent = time.monotonic(), cpu_seconds()
    subprocess.run([sys.executable, "-S", "-c", BARE_LOOP], input=json.dumps(jobs), text=True, check=True)
    wall, cpu = time.monotonic() - started, cpu_seconds() - spent
    return {"sandbox": BARE, "tests": len(jobs) * args.tests, "wall_seconds": wall, "cpu_seconds": cpu}


def add_up(turns: list[Row]) -> Row:
    """One row of several turns of the same kind."""
    total = {key: sum(turn[key] for turn in turns) for key in ("tests", "wall_seconds", "cpu_seconds")}
    return {"sandbox": turns[0]["sandbox"], **total, "cpu_ms_per_test": 1e3 * total["cpu_seconds"] / total["tests"]}


def overhead(level: list[Row], bare: list[Row]) -> str:
    """CPU milliseconds a test beyond the bare forks of the same turn: the mean over turns, and its standard error."""
    pairs = zip(level, bare, strict=True)
    each = np.array([1e3 * (one["cpu_seconds"] - other["cpu_seconds"]) / one["tests"] for one, other in pairs])
    error = f" ± {each.std(ddof=1) / len(each) ** 0.5:.2f}" if len(each) > 1 else ""
    return f"{each.mean():.2f}{error}"


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    turns: dict[str, list[Row]] = {name: [] for name in (BARE, *args.levels)}
    for part in range(min(args.rounds, args.runs)):
        runs = range(part, args.runs, args.rounds)
        turns[BARE].append(time_bare(args, runs))
        for level in args.levels:
            turns[level].append(time_level(level, args, runs))
    results = [add_up(rows) for rows in turns.values()]
    beyond = ["–", *(overhead(turns[level], turns[BARE]) for level in args.levels)]
    rows = [row | {"overhead": text} for row, text in zip(results, beyond, strict=True)]
    table = tabulate("Trivial programs, every test in a fresh process.", COLUMNS, rows)
    report_record(args, title="Grading programs in the sandbox", tables=[table], results=results)


if __name__ == "__main__":
    run_program(main)
