"""A benchmark's recipe as flags: `--benchmark NAME` stands for its problem file, its samples a problem, its settings.

The recipe is the benchmark's own (`promptcot_mamba/benchmarks`), the typed flags win over it, and several names are
several runs. Nothing here loads a model.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from promptcot_mamba.benchmarks import BENCHMARKS, problem_sets
from promptcot_mamba.cli import expand_recipes
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger
from promptcot_mamba.records import Problem, iter_problems

DATA_DIR = "data"


def take_out(flags: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """The values of a flag where it stands last, as argparse takes them, commas parting them too; the other flags."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, dest="values", nargs="*", default=[])
    found, rest = parser.parse_known_args(flags)
    return [part for value in found.values for part in value.split(",") if part], rest


def expand_benchmark(flags: list[str]) -> list[str]:
    """The flags, behind those that their `--benchmark` stands for; raises InputError for an unknown benchmark.

    `--data_dir` and `--output_dir` say where the problem file is and where `<name>.jsonl` goes.
    """
    names, _ = take_out(flags, "--benchmark")
    if not names:
        return flags
    sets = problem_sets(names)
    if len(sets) > 1:
        raise InputError(f"--benchmark {' '.join(names)}: one of {', '.join(sets)} at a time here")
    [(name, members)] = sets.items()
    data_dir, output_dir = (take_out(flags, flag)[0][-1:] for flag in ("--data_dir", "--output_dir"))
    recipe = {"data_path": Path(*(data_dir or [DATA_DIR])) / members[0].problem_file, "n": members[0].n}
    recipe |= members[0].sampling
    if output_dir:
        recipe["output_path"] = Path(output_dir[0]) / f"{name}.jsonl"
    return [*(f"--{key}={value}" for key, value in recipe.items()), *flags]


def split_benchmarks(argv: Sequence[str]) -> dict[str, list[str]]:
    """One command line for each problem set that `--benchmark` names: by name, none of them where it names none.

    Raises InputError where several would read or write the same file.
    """
    flags = expand_recipes(argv)
    names, rest = take_out(flags, "--benchmark")
    sets = problem_sets(names)
    if "all" in names:
        data_dir = Path((take_out(flags, "--data_dir")[0] or [DATA_DIR])[-1])
        for name, members in list(sets.items()):
            if not members[0].published and not (data_dir / members[0].problem_file).is_file():
                logger.warning("%s is left out: not prepared, and in no table of the paper", name)
                del sets[name]
    if len(sets) > 1:
        for flag in ("--data_path", "--output_path"):
            if take_out(flags, flag)[0]:
                raise InputError(f"{flag}: with several benchmarks use --data_dir and --output_dir")
        if not take_out(flags, "--output_dir")[0]:
            raise InputError("--output_dir: say where the predictions of several benchmarks go")
    return {name: [*rest, f"--benchmark={name}"] for name in sets}


def read_problems(path: str, names: Sequence[str], limit: int | None = None) -> list[Problem]:
    """The problems of a file: without those of benchmarks that share it and are not named, the first of each source.

    Raises InputError for a file that is missing, empty or malformed.
    """
    members = [member for group in problem_sets(names).values() for member in group]
    if members and not Path(path).is_file():
        name = members[0].name
        made_by = f"prepare_problems --benchmark {name}" if members[0].publisher else "quickstart.make_data"
        raise InputError(f"--data_path {path}: no such file; python -m scripts.{made_by} writes it")
    files = {member.problem_file for member in members}
    neighbours = [other for other in BENCHMARKS.values() if other.problem_file in files and other not in members]
    left_out = {source for other in neighbours for source in other.sources}
    problems = []
    taken: Counter[str | None] = Counter()  # by source
    for problem in iter_problems(path):
        if problem.source in left_out or (limit is not None and taken[problem.source] >= limit):
            continue
        taken[problem.source] += 1
        problems.append(problem)
    if not problems:
        raise InputError(f"--data_path {path}: the file is empty, expected one problem a line")
    return problems
