"""Score a prediction file of programs: LiveCodeBench, HumanEval, HumanEval+ and the quickstart's, in the sandbox.

What `calc_acc_lcb.py` and `scripts.calc_acc` run. A row's benchmark is its `source`'s, else the one chosen. Where a
statement's own samples stand in for absent tests, the samples are a benchmark of their own in every table.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from promptcot_mamba.benchmarks import BENCHMARKS, Benchmark
from promptcot_mamba.benchmarks.missing import Missing, find_missing
from promptcot_mamba.cli import flag
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code.extract import Wanted, extract_program
from promptcot_mamba.grading.code.grading import CodeJob, SandboxPool, grade_jobs
from promptcot_mamba.grading.code.humaneval import grade_function, read_problem
from promptcot_mamba.grading.code.tests import GRADER_VERSION, TestSet, load_tests, run_tests, sample_tests
from promptcot_mamba.grading.predictions import Prediction, add_confidence, read_predictions, warn_of_missing
from promptcot_mamba.grading.sandbox.sandbox import Limits, assert_unreadable
from promptcot_mamba.grading.summary import (
    Figures,
    detail_lines,
    headline_rows,
    render_markdown,
    render_table,
    summarize,
)
from promptcot_mamba.jsonl import Row, write_json, write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.ray_jobs import open_cluster
from promptcot_mamba.records import Grade
from promptcot_mamba.run_info import describe_run, side_path

TESTS_ENV = "LIVECODEBENCH_TESTS"
SAMPLES = "samples"  # the kind, and the benchmark's suffix, of verdicts by a statement's samples
BLOCKED_FACTOR = 2.5


@dataclass
class CodeOptions:
    """How programs are tested."""

    cache_path: str | None = flag("verdicts are appended here and reused", default=None, writes="file")
    tests_dir: str | None = flag(
        f"folder of tests; else ${TESTS_ENV}, else the benchmark's own in --data_dir", default=None, reads="folder"
    )
    data_dir: str = flag("folder of the benchmarks' problem files and tests", default="data", elsewhere=True)
    sample_tests: bool = flag("where a tests file is absent, use the statement's samples; kept apart", default=False)
    time_limit: int = flag(
        "CPU seconds a test may take, as many on a busy machine", default=6, least=1, aliases=["--timeout"]
    )
    wall_limit: float | None = flag(
        "seconds a test may sleep or be blocked; default: 2.5 times --time_limit", default=None, above=0
    )
    memory_mb: int = flag("memory a test may take, in MiB", default=4096, least=64)
    workers: int | None = flag("sandboxes at work at once; default: one a core", default=None, least=1)
    ray_address: str | None = flag(
        "HOST:PORT of a Ray cluster that this machine is a node of, or auto: its CPUs grade", default=None
    )
    all_tests: bool = flag("go on after a program's first failed test", default=False)
    sandbox: str | None = flag("namespaces or landlock; default: the strongest there is", default=None)
    unsafe: bool = flag("run programs unprotected where no sandbox can be made", default=False)

    def limits(self) -> Limits:
        wall = BLOCKED_FACTOR * self.time_limit if self.wall_limit is None else self.wall_limit
        return Limits(cpu_seconds=self.time_limit, wall_seconds=wall, memory_mb=self.memory_mb)


@dataclass(frozen=True)
class Prepared:
    """A problem's benchmark, kind of tests and their md5, how a program is graded, and what it must do."""

    benchmark: str
    kind: str
    md5: str
    grade: Callable
    wanted: Wanted


class JobMaker:
    """Predictions -> jobs; tests and problems are read once for all runs of a problem."""

    def __init__(self, path: str | Path, chosen: Benchmark, options: CodeOptions):
        self.path, self.chosen, self.options = path, chosen, options
        self.tests_dir = options.tests_dir or os.environ.get(TESTS_ENV)
        self.made: dict[str, Prepared | None] = {}

    def make(self, one: Prediction) -> CodeJob | None:
        """The job of one prediction; None if its problem has neither tests nor, where asked for, samples.

        Raises InputError for a row whose tests or problem cannot be read.
        """
        if one.problem_id not in self.made:
            self.made[one.problem_id] = self.prepare(one)
        prepared = self.made[one.problem_id]
        if prepared is None:
            return None
        program = extract_program(one.completion, one.row.get("finish_reason"), prepared.wanted)
        run = partial(prepared.grade, code=program.code or "", stop_early=not self.options.all_tests)
        reason = "refused" if one.refused and program.code is None else program.reason
        return CodeJob(
            one.problem_id, one.run, program.code, reason, prepared.md5, run, prepared.kind, prepared.benchmark
        )

    def prepare(self, one: Prediction) -> Prepared | None:
        where = f"{self.path}:{one.line}"
        name = self.benchmark_of(one, where)
        if name in BENCHMARKS and BENCHMARKS[name].tested_by == "functions":
            problem = read_problem(one.row, where)
            wanted = Wanted(problem.entry, problem.head)
            return Prepared(name, name, problem.md5, partial(grade_function, problem=problem), wanted)
        tests = self.find_tests(one, name, where)
        if tests is None:
            return None
        name = f"{name}-{SAMPLES}" if tests.kind == SAMPLES else name
        return Prepared(name, tests.kind, tests.md5, partial(run_tests, tests=tests), Wanted(tests.entry))

    def benchmark_of(self, one: Prediction, where: str) -> str:
        """The row's benchmark. A source no benchmark knows keeps its own name if the row brings its own tests."""
        if one.source is None:
            return self.chosen.name
        for name, benchmark in BENCHMARKS.items():
            if one.source in benchmark.sources:
                if benchmark.kind == "code":
                    return name
                raise InputError(f"{where}: source {one.source!r} is maths; score it with calc_acc_aime.py")
        if isinstance(one.row.get("tests"), list):
            return one.source
        known = ", ".join(s for b in BENCHMARKS.values() if b.kind == "code" for s in b.sources)
        raise InputError(f"{where}: unknown source {one.source!r}; known: {known}; or put the tests in the row")

    def find_tests(self, one: Prediction, name: str, where: str) -> TestSet | None:
        publisher = BENCHMARKS.get(name, self.chosen).publisher
        own = publisher.tests_folder if publisher and publisher.tests_folder else "tests"
        tests_dir = Path(self.tests_dir or Path(self.options.data_dir) / own)
        try:
            tests = load_tests(one.row, tests_dir, where)
        except InputError as error:
            if not self.options.sample_tests:
                raise InputError(f"{error}; or grade by the statements' samples with --sample_tests") from None
            return sample_tests(one.row.get("prompt") or one.row.get("question") or "")
        if tests.kind == "livecodebench":
            assert_unreadable(tests_dir, "--tests_dir")
        return tests


def score_code_file(
    path: str | Path, chosen: Benchmark, options: CodeOptions, expected_runs: int | None = None
) -> tuple[list[Grade], Missing, str]:
    """Grade every prediction of a file: the grades, the runs and problems it lacks, and the sandbox's level.

    Raises InputError for unreadable rows and tests, and where no sandbox can be made.
    """
    predictions = read_predictions(path)
    maker = JobMaker(path, chosen, options)
    owners = [BENCHMARKS.get(maker.benchmark_of(one, f"{path}:{one.line}")) for one in predictions]
    missing = find_missing(path, predictions, owners, expected_runs)
    warn_of_missing(path, missing.runs)
    pairs = [(one, job) for one in predictions if (job := maker.make(one)) is not None]
    without = sum(prepared is None for prepared in maker.made.values())
    if without:
        logger.warning("%s: %d problems have neither tests nor samples; left out", path, without)
    if not pairs:
        raise InputError(f"{path}: no problem has tests or samples")
    with (
        SandboxPool(options.workers, options.limits(), options.sandbox, options.unsafe) as pool,
        open_cluster(options.ray_address, options.workers) as cluster,
    ):
        graded = grade_jobs([job for _, job in pairs], pool, options.cache_path, cluster)
        grades = [to_grade(one, job, row) for (one, _), (job, row) in zip(pairs, graded, strict=True)]
        add_confidence(path, [one for one, _ in pairs], grades)
        return grades, missing, pool.label


def to_grade(one: Prediction, job: CodeJob, row: Row) -> Grade:
    extra: dict[str, Any] = {
        key: row[key]
        for key in ("tests", "total_tests", "failed", "details", "sandbox", "grader_version", "key")
        if key in row
    }
    extra |= {key: one.row.get(key) for key in ("format_valid", "thinking", "completion_tokens")}
    extra |= {"completion_chars": len(one.completion), "completion_hash": one.completion_hash}
    ending = "no_answer" if row["reason"] == "no_code" else row["reason"]
    return Grade(
        job.question_id, job.run, job.benchmark, job.kind, row["passed"], job.code, row["reason"], row["seconds"],
        {**extra, "ending": ending},
    )  # fmt: skip


def summarize_all(grades: Sequence[Grade]) -> list[Figures]:
    """One summary a benchmark."""
    summaries = []
    for name in dict.fromkeys(grade.benchmark for grade in grades):
        own = [grade for grade in grades if grade.benchmark == name]
        known = BENCHMARKS.get(name)
        title = known.title if known else name
        summaries.append(summarize(own, title, known.expected_problems if known else None))
    return summaries


def run_code(
    path: str,
    chosen: Benchmark,
    options: CodeOptions,
    expected_runs: int | None = None,
    strict_runs: bool = False,
    markdown: bool = False,
) -> int:
    """Grade, print, and write X.grades.jsonl and X.metrics.json (and X.metrics.md) beside X.jsonl.

    The exit status is 1 where runs or problems are missing and `strict_runs` asks for them.
    """
    grades, missing, label = score_code_file(path, chosen, options, expected_runs)
    summaries = summarize_all(grades)
    write_jsonl(side_path(path, "grades.jsonl"), (grade.to_row() for grade in grades))
    document = {
        "summaries": summaries, "missing_runs": missing.runs, "missing_problems": missing.problems, "sandbox": label,
        "grader_version": GRADER_VERSION, "limits": options.limits().to_row(),
        "run": describe_run({"input_path": path, "benchmark": chosen.name, **asdict(options)}),
    }  # fmt: skip
    write_json(side_path(path, "metrics.json"), document)
    table = headline_rows(summaries)
    lines = [line for figures in summaries for line in detail_lines(figures)] + [f"sandbox: {label}"]
    print(render_table(table), "", *lines, sep="\n")
    if markdown:
        text = "\n".join([render_markdown(table), "", "```", *lines, "```", ""])
        side_path(path, "metrics.md").write_text(text, encoding="utf-8")
    return 1 if missing and strict_runs else 0
