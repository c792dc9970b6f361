"""The teacher: kept problems as a problem file, and long chains for each by `infer_longcot.py`, as for a benchmark."""

import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row
from promptcot_mamba.run_info import ROOT, side_path
from promptcot_mamba.synthesis.domains import find_domain
from promptcot_mamba.synthesis.spending import BudgetSpentError, Tail, chain_usage
from promptcot_mamba.synthesis.stage import Context, read_run_info

WATCH_SECONDS = 5.0
COUNTS = {"n": 1, "max_len": 1, "max_retries": 1}  # flags that say how much is asked; what is not given is asked once


@dataclass(frozen=True)
class ProblemSettings:
    """domain: one of `domains/`; instruction: what is asked beside the problem, by default the domain's own."""

    domain: str = "math"
    instruction: str | None = None

    def __post_init__(self) -> None:
        find_domain(self.domain)


@dataclass(frozen=True)
class ChainSettings:
    """model_path: the teacher; n: chains a problem; flags: more of infer_longcot.py's, by name.

    repetition_penalty: none by default, as for every other model asked; infer_longcot.py's own is for the paper's.
    """

    model_path: str
    n: int = 8
    max_len: int = 16384
    temperature: float = 0.6
    repetition_penalty: float = 1.0
    flags: dict[str, str | int | float | bool | list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in COUNTS:
            self.number(name)

    @property
    def given(self) -> dict[str, Any]:
        """What infer_longcot.py is given, by name: of two values of one flag that of `flags`."""
        return {**{name: value for name, value in asdict(self).items() if name != "flags"}, **self.flags}

    def number(self, name: str) -> int:
        """One of COUNTS as it is given. Raises InputError where `flags` has no whole number of 1 or more for it."""
        value = self.given.get(name, COUNTS[name])
        try:
            number = int(str(value))
        except ValueError:
            number = 0
        if number < 1:
            raise InputError(f"{name} {value!r}: expected a whole number of 1 or more")
        return number


def run_problems(settings: ProblemSettings, context: Context) -> None:
    """kept_problems.jsonl (code_inputs.jsonl for code) -> teacher_problems.jsonl, as the sampling program reads it."""
    source = find_domain(settings.domain).source
    rows = context.read(source)
    output = context.output("teacher_problems", settings, **{source: context.path(source)})
    if not output.complete:
        output.finish(make_teacher_problem(row, settings) for row in rows)


def make_teacher_problem(row: Row, settings: ProblemSettings) -> Row:
    """One line of a problem file, with what its domain carries along: a code problem keeps its `inputs`."""
    domain = find_domain(settings.domain)
    instruction = domain.instruction if settings.instruction is None else settings.instruction
    return {
        "id": row["key"],
        "question": row["problem"],
        "prompt": render_prompt(row["problem"], instruction),
        "concepts": row["concepts"],
        "level": row["level"],
        "domain": settings.domain,
        "source": "synthesis",
        **{name: row[name] for name in domain.carries},
    }


def run_chains(settings: ChainSettings, context: Context) -> None:
    """teacher_problems.jsonl -> chains.jsonl, by `infer_longcot.py` in a process of its own; it resumes by itself."""
    context.read("teacher_problems")
    flags = {
        "data_path": context.path("teacher_problems"),
        "output_path": context.path("chains"),
        "seed": context.seed,
        **settings.given,
    }
    command = [sys.executable, str(ROOT / "infer_longcot.py")]
    for name, value in flags.items():
        command += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    spending = context.spending
    if spending.budget is not None and not (read_run_info(context.path("chains")) or {}).get("complete"):
        spending.fits(settings.number("max_len"))
    process = subprocess.Popen(command)
    try:
        watch_budget(process, context)
    finally:
        spending.count_again()
    if process.returncode:
        raise InputError(f"infer_longcot.py ended with exit code {process.returncode}; mend what it says and run again")


def watch_budget(process: subprocess.Popen, context: Context) -> None:
    """Wait for the sampling program; once its chains have spent the budget, have it stop, as Ctrl-C would.

    Chains are counted as they end, so those under way at the end may exceed the budget by what they have said.
    Raises BudgetSpentError where it was stopped.
    """
    spending, path = context.spending, side_path(context.path("chains"), "attempts.jsonl")
    journal = Tail(path, path.stat().st_size if path.exists() else 0)
    while True:
        try:
            process.wait(None if spending.budget is None else WATCH_SECONDS)
            return
        except subprocess.TimeoutExpired:
            spending.spent += chain_usage(journal.new_rows()).tokens
        except KeyboardInterrupt:
            process.wait()
            raise
        if spending.spent >= cast(int, spending.budget):
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise BudgetSpentError(f"--budget_tokens {spending.budget}: {spending.spent:,} tokens are spent")
