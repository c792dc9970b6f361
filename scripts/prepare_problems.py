"""Benchmark problems from their publishers -> `data/<benchmark>_test.jsonl` in the published format, and test folders.

    python -m scripts.prepare_problems --benchmark all
    python -m scripts.prepare_problems --benchmark aime24,livecodebench --source_dir ~/benchmarks --output_dir data

`all` needs what the paper's tables need; further benchmarks that are not at hand are left out, and said to be.
Without `--source_dir` files come from the hub. With it they are looked for as `DIR/<owner>/<name>/...` (the hub's
layout) and, under the names they are passed around by (`HumanEval.jsonl.gz`, `aime_test.jsonl`, ...), in `DIR` itself.
Ids, texts and tests do not depend on where the files came from; the licence, origin and checksum of each go to
`problems.manifest.json`.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.benchmarks import BENCHMARKS, Benchmark, fetched, problem_sets
from promptcot_mamba.benchmarks.benchmark import Form, Publisher
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.data.row_files import Chunk, iter_rows
from promptcot_mamba.data.sources import find_repo_files
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, dump_row, hash_file, iter_jsonl, replace_atomically, write_json
from promptcot_mamba.log import logger
from promptcot_mamba.records import problem_id

MANIFEST_FILE = "problems.manifest.json"


@dataclass
class ProblemArguments:
    benchmark: str = flag(f"all, paper (its tables'), or with commas: {', '.join(fetched())}.", default="all")
    source_dir: str | None = flag("Folder of downloaded files; without it the hub.", default=None, reads="folder")
    output_dir: str = flag("Where problem files and test folders go.", default="data", writes="folder")
    allow_other_count: bool = flag(
        "Accept a publisher's file with another number of problems than is known.", default=False
    )


class NotAtHandError(InputError):
    """A benchmark's files are neither here nor to be had."""


def find_files(name: str, publisher: Publisher, source_dir: str | None) -> tuple[Form, list[Path]]:
    """The form that is at hand, and its files in row order.

    Raises NotAtHandError if none is, saying which files to download and where to put them.
    """
    form = publisher.forms[0]
    assert form.repo is not None, name  # the first form is the hub's
    if source_dir is None:
        try:
            return form, [path for part in form.parts for path in find_repo_files(form.repo, part, None)]
        except InputError as error:
            raise NotAtHandError(f"{name}: {error}") from None
    for other in publisher.forms:
        named = [Path(source_dir) / file for file in other.names if (Path(source_dir) / file).is_file()]
        if named:
            return other, named[:1]
        if other.repo is not None and (Path(source_dir) / other.repo).is_dir():
            return other, [path for part in other.parts for path in find_repo_files(other.repo, part, source_dir)]
    names = [file for other in publisher.forms for file in other.names]
    local = f", or put {' or '.join(names)} into {source_dir}/" if names else ""
    wanted = ", ".join(part[0] for part in form.parts)
    raise NotAtHandError(
        f"{name}: nothing of it in --source_dir {source_dir}; download {wanted} of {publisher.origin} "
        f"to {Path(source_dir) / form.repo}/ (hf download {form.repo} --repo-type dataset --local-dir "
        f"{Path(source_dir) / form.repo}){local}"
    )


def convert_rows(name: str, form: Form, files: list[Path]) -> Iterator[tuple[Row, Row]]:
    """Yield `(raw, problem)` of the rows that belong to the benchmark; raises InputError naming file and row."""
    position = 0
    for file in files:
        for where, raw in iter_rows(Chunk(file)):
            form.check(raw, where)
            try:
                problem = form.convert(raw, position)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
            position += 1
            if problem is not None:
                yield raw, problem
    if position == 0:
        raise InputError(f"{name}: {', '.join(map(str, files))}: no rows")


def keep_neighbours(path: Path, benchmark: Benchmark) -> list[Row]:
    """Rows of the file that belong to another benchmark (AIME 2024 and 2025 share one)."""
    if not path.exists() or not any(
        other.problem_file == benchmark.problem_file for other in BENCHMARKS.values() if other is not benchmark
    ):
        return []
    return [row for _, row in iter_jsonl(path) if row.get("source") not in benchmark.sources]


def prepare(name: str, args: ProblemArguments) -> dict[str, Any]:
    """Write one benchmark's problems (and tests) and return its line of the manifest."""
    benchmark = BENCHMARKS[name]
    publisher = benchmark.publisher
    assert publisher is not None, name  # see chosen_names
    form, files = find_files(name, publisher, args.source_dir)
    output = Path(args.output_dir)
    path = output / benchmark.problem_file
    tests_dir = output / (publisher.tests_folder or "")
    make_tests = publisher.make_tests if form is publisher.forms[0] else None
    problems, tests = [], 0
    for raw, problem in convert_rows(name, form, files):
        problems.append(problem)
        if make_tests is not None:
            content = make_tests(raw)
            with replace_atomically(tests_dir / problem["tests"]["fname"]) as file:
                json.dump(content, file)
            tests += 1
    if len(problems) != form.expected and not args.allow_other_count:
        raise InputError(
            f"{name}: {len(problems)} problems in {', '.join(file.name for file in files)}, expected {form.expected}; "
            "the file is incomplete or its publisher changed it (--allow_other_count True takes it as it is)"
        )
    rows = sorted([*keep_neighbours(path, benchmark), *problems], key=lambda row: row.get("idx") or 0)
    for identity, times in Counter(map(problem_id, rows)).items():
        if identity is None or times > 1:
            found = f"id {identity!r} {times} times" if identity else "a problem without an id"
            raise InputError(f"{name}: {', '.join(file.name for file in files)}: {found}; did the schema change?")
    with replace_atomically(path, "wb") as file:
        file.writelines(map(dump_row, rows))
    kept = f", tests in {tests_dir}" if tests else ""
    logger.info("%s: %d problems in %s%s", benchmark.title, len(problems), path, kept)
    if publisher.make_tests is not None and make_tests is None:
        logger.warning("%s: %s holds no tests; grading needs the publisher's files", benchmark.title, files[0].name)
    return {
        "title": benchmark.title,
        "problems": len(problems),
        "tests": tests,
        "file": path.name,
        "licence": publisher.licence,
        "origin": publisher.origin,
        "inputs": [{"file": file.name, "sha256": hash_file(file)} for file in files],
    }


def chosen_names(asked: str) -> list[str]:
    """The benchmarks of `--benchmark`, in the table's order of problem files; raises InputError for others."""
    try:
        sets = problem_sets([name.strip() for name in asked.split(",")])
    except InputError as error:
        raise InputError(f"--benchmark: {error}") from None
    names = list(dict.fromkeys(benchmark.name for members in sets.values() for benchmark in members))
    for name in names:
        if BENCHMARKS[name].publisher is None:
            raise InputError(f"--benchmark {name}: has no publisher; python -m scripts.quickstart.make_data writes it")
    return names


def main() -> None:
    args = parse_args(ProblemArguments, description=__doc__)
    names = chosen_names(args.benchmark)
    output = Path(args.output_dir)
    manifest_path = output / MANIFEST_FILE
    manifest = json.loads(manifest_path.read_text(encoding="utf-8")) if manifest_path.exists() else {}
    if gone := [name for name, line in manifest.items() if not (output / line["file"]).exists()]:
        logger.info("%s: no longer lists %s, whose files are gone", manifest_path, ", ".join(gone))
        manifest = {name: line for name, line in manifest.items() if name not in gone}
    failures = []
    for name in names:
        try:
            manifest[name] = prepare(name, args)
        except InputError as error:
            if len(names) == 1:
                raise
            if isinstance(error, NotAtHandError) and args.benchmark == "all" and not BENCHMARKS[name].published:
                logger.warning("%s is left out: it is in no table of the paper, and %s", name, error)
                continue
            logger.error("%s", error)  # the other benchmarks are worth having
            failures.append(name)
            continue
        for line in manifest.values():
            line["sha256"] = hash_file(output / line["file"])
        write_json(manifest_path, manifest)
    if failures:
        raise InputError(f"not prepared: {', '.join(failures)}; see above")


if __name__ == "__main__":
    run_program(main)
