"""Samples with verdicts: what a model wrote, and which of it is right by its grades or by its majority.

By gold: the verdicts are those that `calc_acc` wrote beside the predictions, the strict grader's for maths, the tests'
for code. By majority, where nobody knows the answer: what most of a problem's samples agree on is taken for right.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.predictions import Prediction, read_predictions
from promptcot_mamba.jsonl import Row, iter_jsonl
from promptcot_mamba.synthesis.distill import group_chains
from promptcot_mamba.synthesis.domains import find_domain

GRADE_AGAIN = "grade it again with calc_acc_aime.py, calc_acc_lcb.py or scripts.calc_acc"
NO_GRADE, TEXT_GOLD, NO_MAJORITY = "no grade", "gold that is compared as text alone", "no majority"
Address = tuple[str, int]  # (problem, run)


@dataclass(frozen=True)
class Judged:
    """One sample and whether it is right. `cut_short`: the sampler ended it, not the model."""

    problem: str
    run: int
    completion: str
    right: bool
    cut_short: bool
    format_valid: bool
    tokens: int
    line: int
    row: Row = field(repr=False)


@dataclass(frozen=True)
class Tried:
    """One problem's samples, in the order of their runs. `unjudged` says why it has no verdicts, if it has none; `path`
    is the file that holds them."""

    problem: str
    samples: list[Judged]
    unjudged: str | None = None
    path: str = ""

    @property
    def prompt(self) -> Any:
        """What its samples answer, as its file has it."""
        row = self.samples[0].row
        return row.get("prompt") or row.get("question")

    @property
    def pass_rate(self) -> float:
        """The share of right ones among all samples, those that were cut short included."""
        return sum(one.right for one in self.samples) / len(self.samples)


def judge(one: Prediction, right: bool) -> Judged:
    tokens = one.row.get("completion_tokens")
    return Judged(
        problem=one.problem_id,
        run=one.run,
        completion=one.completion,
        right=right,
        cut_short=one.cut_short,
        format_valid=one.row.get("format_valid") is not False,
        tokens=tokens if isinstance(tokens, int) else len(one.completion),
        line=one.line,
        row=one.row,
    )


def by_problem(predictions: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    problems: dict[str, list[Prediction]] = defaultdict(list)
    for one in predictions:
        problems[one.problem_id].append(one)
    return {name: sorted(own, key=lambda one: one.run) for name, own in problems.items()}


def read_grades(path: str | Path) -> dict[Address, tuple[int, Row]]:
    """The line and the row of each grade. Raises InputError, naming the line, for a row that is no grade."""
    grades: dict[Address, tuple[int, Row]] = {}
    for number, row in iter_jsonl(path):
        address = row.get("problem_id"), row.get("run")
        if not isinstance(address[0], str) or not isinstance(address[1], int) or not isinstance(verdict(row), bool):
            raise InputError(f"{path}:{number}: no grade: expected problem_id, run and correct, found {', '.join(row)}")
        if address in grades:
            raise InputError(f"{path}:{number}: problem {address[0]!r}, run {address[1]} was graded on an earlier line")
        grades[address[0], address[1]] = number, row
    return grades


def verdict(grade: Row) -> Any:
    """Maths carries the strict verdict beside the one that was asked for; code has one."""
    return grade.get("strict", grade.get("correct"))


def is_of(grade: Row, one: Prediction) -> bool:
    """Whether a grade was given for this very text; files older than the hash have its length."""
    if "completion_hash" in grade:
        return grade["completion_hash"] == one.completion_hash
    return grade.get("completion_chars", len(one.completion)) == len(one.completion)


def judge_by_gold(path: str, grades_path: str | Path, skip_ungraded: bool) -> list[Tried]:
    """Every problem of a prediction file with the verdicts of its grades.

    Raises InputError for grades of another file, and for a sample without one unless `skip_ungraded`.
    """
    predictions, grades = read_predictions(path), read_grades(grades_path)
    known = {(one.problem_id, one.run) for one in predictions}
    for address, (number, _) in grades.items():
        if address not in known:
            raise InputError(
                f"{grades_path}:{number}: grades problem {address[0]!r}, run {address[1]}, which {path} does not hold; "
                f"give its own grades, or {GRADE_AGAIN}"
            )
    tried = []
    for problem, own in by_problem(predictions).items():
        samples, missing, unreadable = [], None, False
        for one in own:
            number, grade = grades.get((problem, one.run), (0, None))
            if grade is None:
                missing = missing or one
                samples.append(judge(one, False))
                continue
            if not is_of(grade, one):
                raise InputError(
                    f"{grades_path}:{number}: grades another completion of problem {problem!r}, run {one.run}, than "
                    f"{path}:{one.line} holds; give its own grades, or {GRADE_AGAIN}"
                )
            unreadable |= grade.get("gold_readable") is False
            samples.append(judge(one, verdict(grade)))
        if missing is not None and not skip_ungraded:
            raise InputError(
                f"{path}:{missing.line}: {grades_path} has no grade of problem {problem!r}, run {missing.run}; "
                f"{GRADE_AGAIN}, or leave its problem out with --skip_ungraded True"
            )
        tried.append(Tried(problem, samples, NO_GRADE if missing else TEXT_GOLD if unreadable else None, path))
    return tried


def judge_by_majority(path: str, least: float, workers: int | None = None) -> list[Tried]:
    """Every problem of a prediction file, right being what at least `least` of its samples, cut ones counted, say.

    What a sample says and when two agree is its domain's to tell (`domains/`): maths, or a row's own `domain`. No
    answer, and an answer that as many samples share as another, are no majority.
    """
    problems = by_problem(read_predictions(path))
    chains = {name: [as_chain(one, path) for one in own] for name, own in problems.items()}
    observed: dict[Address, Any] = {}
    for domain in {chain["domain"] for own in chains.values() for chain in own}:
        whole = [c for own in chains.values() for c in own if c["domain"] == domain and not c["cut_short"]]
        observed |= find_domain(domain).observe(whole, workers)
    tried = []
    for name, own in tqdm(problems.items(), desc="majorities", unit="problem"):
        found = find_majority(chains[name], observed, least)
        samples = [judge(one, one.run in (found or ())) for one in own]
        tried.append(Tried(name, samples, NO_MAJORITY if found is None else None, path))
    return tried


def as_chain(one: Prediction, path: str) -> Row:
    """A sample as `domains/` read it. Raises InputError naming the line for a domain that is not known."""
    domain = one.row.get("domain") or ("code" if "inputs" in one.row else "math")
    try:
        find_domain(domain)
    except InputError as error:
        raise InputError(f"{path}:{one.line}: {error}") from None
    if domain == "code" and not isinstance(one.row.get("inputs"), list):
        raise InputError(
            f"{path}:{one.line}: a majority of programs needs 'inputs' to run them on (scripts.synthesize writes them: "
            "code_inputs); where there are tests, grade by them and use --by gold"
        )
    own = {"id": one.problem_id, "run": one.run, "completion": one.completion, "domain": domain}
    return {**one.row, **own, "cut_short": one.cut_short}


def find_majority(chains: Sequence[Row], observed: Mapping[Address, Any], least: float) -> set[int] | None:
    """The runs of the largest group that agrees, None where it is too small or another is as large."""
    whole = [chain for chain in chains if not chain["cut_short"]]
    groups = group_chains(whole, find_domain(chains[0]["domain"]), observed)
    sizes = sorted(map(len, groups), reverse=True)
    if not sizes or sizes[0] / len(chains) < least or sizes[:2] == [sizes[0]] * 2:
        return None
    return {chain["run"] for chain in max(groups, key=len)}
