"""Grade many samples of code: a pool of sandboxes, and verdicts kept by content so that work is never done twice."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code.tests import GRADER_VERSION, CodeVerdict, TestResult
from promptcot_mamba.grading.sandbox.sandbox import Limits, Sandbox, SandboxBrokenError, SandboxRefusedError
from promptcot_mamba.jsonl import DurableAppender, Row
from promptcot_mamba.log import logger
from promptcot_mamba.ray_jobs import RayCluster

Result = TypeVar("Result")
FIRST_VERSION = "code-1"  # whose rows do not say so
SANDBOX_BROKE = "sandbox_broke"


@dataclass(frozen=True)
class CodeJob:
    """One sample to grade: whose it is, its program (None with a reason if it has none), and how to test it.

    `tests_md5` names the tests' content; `run` takes a sandbox and gives the verdict.
    """

    question_id: str
    run: int
    code: str | None
    no_code_reason: str | None
    tests_md5: str
    grade: Callable[[Sandbox], CodeVerdict]
    kind: str  # of tests: livecodebench, inline, samples, humaneval, humanevalplus
    benchmark: str


def verdict_key(job: CodeJob, limits: Limits, level: str) -> str:
    """The hash of all that decides a verdict: program, tests, grader, Python, limits and sandbox level."""
    grader = [GRADER_VERSION, *sys.version_info[:2]]
    parts = [job.code, job.no_code_reason, job.kind, job.tests_md5, grader, limits.to_row(), level]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def read_cache(path: str | Path) -> list[Row]:
    """Every verdict row of this grader's version; nothing is deleted.

    Corrupt lines and verdicts of another version are counted and passed over; what they graded is graded again.
    """
    rows: list[Row] = []
    corrupt = 0
    path = Path(path)
    if not path.exists():
        return rows
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"--cache_path {path}: cannot be read ({error.strerror})") from None
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not all(isinstance(row[key], kind) for key, kind in (("key", str), ("passed", bool), ("reason", str))):
                raise TypeError("not a verdict")
            rows.append(row)
        except (ValueError, KeyError, TypeError):
            corrupt += 1
    if corrupt:
        logger.warning("%s: %d corrupt lines passed over; what they graded is graded again", path, corrupt)
    others = Counter(str(row.get("grader_version", FIRST_VERSION)) for row in rows)
    del others[GRADER_VERSION]
    for version, count in others.items():
        logger.warning("%s: %d verdicts of grader %s, not %s, are left unused", path, count, version, GRADER_VERSION)
    return [row for row in rows if row.get("grader_version") == GRADER_VERSION]


class ProgramBreaksError(SandboxRefusedError):
    """A program that ends every sandbox it runs in, where others run."""


def runs_nothing(sandbox: Sandbox) -> bool:
    """Whether a sandbox runs the empty program."""
    try:
        return sandbox.run({"mode": "stdin", "code": "", "prelude": True}).reason is None
    except (SandboxBrokenError, ConnectionError):
        return False


class SandboxPool(AbstractContextManager):
    """As many sandboxes as workers, all of one level; each is lent to one thread at a time."""

    def __init__(self, workers: int | None = None, limits: Limits | None = None, level: str | None = None,
                 unsafe: bool = False):  # fmt: skip
        self.limits = limits or Limits()
        self.workers = workers or len(os.sched_getaffinity(0))
        first = Sandbox(level, self.limits, unsafe)
        self.level, self.label = first.level, first.label
        self._idle: queue.SimpleQueue[Sandbox | None] = queue.SimpleQueue()
        self._made = [first]
        self.closed = False
        self._lock = threading.Lock()
        self._idle.put(first)
        for _ in range(self.workers - 1):
            self._idle.put(None)  # made when first needed

    def run(self, grade: Callable[[Sandbox], Result]) -> Result:
        """Grade in a free sandbox; one whose server broke is replaced, and the work done once more.

        Where that breaks too, raises ProgramBreaksError if an empty program runs, else SandboxRefusedError: what
        breaks them is no program's fault.
        """
        sandbox = self._idle.get()
        try:
            sandbox = sandbox or self._make()
            try:
                return grade(sandbox)
            except (RuntimeError, OSError) as error:
                if self.closed:
                    raise
                logger.warning("a sandbox broke (%s); grading once more in a new one", error)
                sandbox.close()
                sandbox = self._make()
                try:
                    return grade(sandbox)
                except (SandboxBrokenError, ConnectionError) as again:
                    sandbox.close()
                    sandbox = self._make()
                    kind = ProgramBreaksError if runs_nothing(sandbox) else SandboxRefusedError
                    raise kind(f"two sandboxes broke over one program: {again}") from again
        finally:
            self._idle.put(sandbox)

    def _make(self) -> Sandbox:
        sandbox = Sandbox(self.level, self.limits, unsafe=True)
        with self._lock:
            self._made.append(sandbox)
        return sandbox

    def close(self) -> None:
        self.closed = True
        for sandbox in self._made:
            sandbox.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


def grade_jobs(
    jobs: Sequence[CodeJob],
    pool: SandboxPool,
    cache_path: str | Path | None = None,
    cluster: RayCluster | None = None,
) -> Iterator[tuple[CodeJob, Row]]:
    """Grade jobs and yield `(job, verdict row)` in the jobs' order: in the pool, or in sandboxes like its own on a
    cluster's nodes.

    Verdicts whose key is in the cache are taken from it; every new one is appended there as it is found, but for those
    that are not settled: a program that slept too long is tried again.
    Raises InputError if another process writes the cache.
    """
    cached = read_cache(cache_path) if cache_path else []
    known = {row["key"]: row for row in cached}
    keys = [verdict_key(job, pool.limits, pool.label) for job in jobs]
    unsettled: set[str] = set()
    recorded = {(row["key"], str(row.get("question_id")), row.get("run")) for row in cached}
    with DurableAppender(cache_path) if cache_path else nullcontext() as appender:
        todo = {key: job for key, job in zip(keys, jobs, strict=True) if key not in known}
        if cache_path:
            graded = sum(key in known for key in keys)
            logger.info("%d samples, %d verdicts in %s, %d to grade", len(jobs), graded, cache_path, len(todo))
        for key, verdict in _grade_on(cluster, todo, pool) if cluster else _grade_all(todo, pool):
            job = todo[key]
            row = {"question_id": job.question_id, "run": job.run, **verdict.to_row()}
            row |= {"sandbox": pool.label, "benchmark": job.benchmark, "grader_version": GRADER_VERSION, "key": key}
            known[key] = row
            if not verdict.settled:
                unsettled.add(key)
            elif appender:
                appender.append(row)
                recorded.add((key, job.question_id, job.run))
        for key, job in zip(keys, jobs, strict=True):
            row = {**known[key], "question_id": job.question_id, "run": job.run}
            if appender and key not in unsettled and (key, job.question_id, job.run) not in recorded:
                appender.append(row)  # the same program, sampled once more
                recorded.add((key, job.question_id, job.run))
            yield job, row


def _grade_all(todo: dict[str, CodeJob], pool: SandboxPool) -> Iterable[tuple[str, CodeVerdict]]:
    """Grade each job once, as many at a time as there are sandboxes; yields in the order they end."""
    with ThreadPoolExecutor(pool.workers) as executor:
        waiting: dict[Future[CodeVerdict], str] = {}
        rest = iter(todo.items())
        try:
            while True:
                for key, job in rest:
                    waiting[executor.submit(_grade_one, job, pool)] = key
                    if len(waiting) >= 2 * pool.workers:
                        break
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        finally:
            if waiting:  # an error, an interrupt or a caller who stopped asking must not wait for what runs
                for future in waiting:
                    future.cancel()
                pool.close()


def _grade_on(cluster: RayCluster, todo: dict[str, CodeJob], pool: SandboxPool) -> Iterator[tuple[str, CodeVerdict]]:
    """`_grade_all` on a cluster, every sandbox of the level that this machine's has."""
    make = partial(_make_grader, pool.limits, pool.level)
    yield from cluster.results(make, ((key, (job,)) for key, job in todo.items()))


def _make_grader(limits: Limits, level: str) -> Callable[[CodeJob], CodeVerdict]:
    return partial(_grade_one, pool=SandboxPool(1, limits, level, unsafe=level == "unsafe"))


def _grade_one(job: CodeJob, pool: SandboxPool) -> CodeVerdict:
    """The verdict of one job; a program that breaks every sandbox is wrong for now: the next run tries it again."""
    if job.code is None:
        return CodeVerdict(False, job.no_code_reason or "no_code")
    try:
        return pool.run(job.grade)
    except ProgramBreaksError as error:
        logger.warning(
            "problem %s, run %d: %s; others run, so it is graded as %s, wrong, and not cached: run the command again "
            "to try it once more, and please report the program", job.question_id, job.run, error, SANDBOX_BROKE,
        )  # fmt: skip
        result = TestResult(SANDBOX_BROKE, 0.0, str(error), settled=False)
        return CodeVerdict(False, SANDBOX_BROKE, (result,), 1)
    except SandboxRefusedError as error:
        raise SandboxRefusedError(
            f"problem {job.question_id}, run {job.run}: {error}; no program runs here any more: see to this machine "
            "(memory, disk, limits) and run the same command again, which goes on behind the verdicts in --cache_path"
        ) from error
