"""Distillation: a teacher's long chains for each kept problem, trusted where most of them agree.

`teacher_problems` writes a problem file; `chains` samples it with `infer_longcot.py`, as any benchmark would be;
`distill` keeps the chains whose answer a majority of the samples share, by the strict grader. What comes out is rows
that `prepare_sft_data` reads with its `synthesis` adapter.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from promptcot_mamba.chat_format import MATH_INSTRUCTION, render_prompt
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.answers import extract_answer
from promptcot_mamba.grading.gold import Gold
from promptcot_mamba.grading.math_strict import grade
from promptcot_mamba.jsonl import Row, read_jsonl
from promptcot_mamba.log import get_logger
from promptcot_mamba.run_info import ROOT
from promptcot_mamba.sampling.backend import STOP
from promptcot_mamba.synthesis.stage import Context

logger = get_logger(__name__)


@dataclass(frozen=True)
class ProblemSettings:
    """instruction: what is asked beside the problem; domain: math or code."""

    instruction: str = MATH_INSTRUCTION
    domain: str = "math"


@dataclass(frozen=True)
class ChainSettings:
    """model_path: the teacher; n: chains a problem; flags: more of infer_longcot.py's, by name."""

    model_path: str
    n: int = 8
    max_len: int = 16384
    temperature: float = 0.6
    flags: dict[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """threshold: least share of a problem's samples, unusable ones counted, that must agree; keep: chains a problem."""

    threshold: float = 0.5
    keep: int = 1
    max_tokens: int | None = None


def run_problems(settings: ProblemSettings, context: Context) -> None:
    """kept_problems.jsonl -> teacher_problems.jsonl: `id`, `prompt`, `question`, `concepts`, `level`, `domain`."""
    rows = context.read("kept_problems")
    output = context.output("teacher_problems", settings, kept_problems=context.path("kept_problems"))
    if not output.complete:
        output.finish(make_teacher_problem(row, settings) for row in rows)


def make_teacher_problem(row: Row, settings: ProblemSettings) -> Row:
    """A problem as the sampling program reads it."""
    return {
        "id": row["key"],
        "question": row["problem"],
        "prompt": render_prompt(row["problem"], settings.instruction),
        "concepts": row["concepts"],
        "level": row["level"],
        "domain": settings.domain,
        "source": "synthesis",
    }


def run_chains(settings: ChainSettings, context: Context) -> None:
    """teacher_problems.jsonl -> chains.jsonl, by `infer_longcot.py` in a process of its own; it resumes by itself."""
    context.read("teacher_problems")
    flags = {
        "data_path": context.path("teacher_problems"),
        "output_path": context.path("chains"),
        "seed": context.seed,
        **{name: value for name, value in asdict(settings).items() if name != "flags"},
        **settings.flags,
    }
    command = [sys.executable, str(ROOT / "infer_longcot.py"), *(f"--{name}={value}" for name, value in flags.items())]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise InputError(f"infer_longcot.py ended with exit code {done.returncode}; mend what it says and run again")


def run(settings: Settings, context: Context) -> None:
    """chains.jsonl -> distilled.jsonl."""
    if not 0 < settings.threshold <= 1 or settings.keep < 1:
        raise InputError(f"distill: threshold {settings.threshold} must be in (0, 1] and keep {settings.keep} positive")
    chains = read_jsonl(context.path("chains"))
    output = context.output("distilled", settings, chains=context.path("chains"))
    if output.complete:
        return
    rows, outcomes = distill(chains, settings)
    logger.info("distill: %d rows; problems: %s", len(rows), dict(outcomes))
    output.finish(rows, chains=len(chains), **outcomes)


def distill(chains: Sequence[Row], settings: Settings) -> tuple[list[Row], Counter[str]]:
    """Rows of the problems whose samples agree, and how many problems ended in each outcome."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for chain in chains:
        groups[chain["id"]].append(chain)
    rows: list[Row] = []
    outcomes: Counter[str] = Counter()
    for group in groups.values():
        usable = [chain for chain in group if is_usable(chain, settings.max_tokens)]
        majority = find_majority(usable)
        agreement = len(majority) / len(group)
        if not majority:
            outcomes["no usable chain"] += 1
        elif agreement < settings.threshold:
            outcomes["no majority"] += 1
        else:
            outcomes["kept"] += 1
            rows += [make_row(chain, agreement) for chain in majority[: settings.keep]]
    return rows, outcomes


def is_usable(chain: Row, max_tokens: int | None) -> bool:
    """Finished, in the chat format, and not too long."""
    short = max_tokens is None or chain["completion_tokens"] <= max_tokens
    return chain["finish_reason"] == STOP and chain["format_valid"] and short


def find_majority(chains: Sequence[Row]) -> list[Row]:
    """The largest group of chains with one answer, in sampling order; the earlier group wins a tie.

    Chains of code problems have no answer to compare: each is a group of its own, and agreement says nothing of them.
    """
    groups: list[tuple[str, list[Row]]] = []
    for chain in chains:
        answer = extract_answer(chain["completion"]).answer
        if answer is None:
            continue
        for representative, members in groups:
            if grade(Gold(representative), answer).equal:
                members.append(chain)
                break
        else:
            groups.append((answer, [chain]))
    return max((members for _, members in groups), key=len, default=[])


def make_row(chain: Row, agreement: float) -> Row:
    """A training row; `answer` is the majority's, `agreement` its share of the problem's samples."""
    return {
        "key": f"{chain['id']}/{chain['run']}",
        "question": chain["question"],
        "prompt": chain["prompt"],
        "completion": chain["completion"],
        "answer": extract_answer(chain["completion"]).answer,
        "agreement": agreement,
        "finish_reason": chain["finish_reason"],
        "domain": chain["domain"],
        "source": "synthesis",
    }
