"""Distillation: of a teacher's chains for a problem, those that most of them agree with.

A maths chain stands for its final answer, compared by the strict grader; a code chain for what its program prints on
the problem's inputs, run in the sandbox. What comes out is rows that `prepare_sft_data` reads with its `synthesis`
adapter.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math.answers import extract_answer
from promptcot_mamba.grading.math.gold import Gold
from promptcot_mamba.grading.math.strict import grade
from promptcot_mamba.jsonl import Row, write_jsonl
from promptcot_mamba.log import get_logger
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.backend import STOP
from promptcot_mamba.synthesis.code_agreement import FAILED, Prints, observe_programs
from promptcot_mamba.synthesis.stage import Context

logger = get_logger(__name__)

Group = list[Row]
Observed = dict[tuple[str, int], Prints]  # by (id, run)


@dataclass(frozen=True)
class Settings:
    """threshold: least share of a problem's samples, unusable ones counted, that must agree; keep: chains a problem.

    max_tokens: longer chains are unusable; workers: sandboxes at work at once, for code.
    """

    threshold: float = 0.5
    keep: int = 1
    max_tokens: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or self.keep < 1:
            raise InputError(f"threshold {self.threshold} must be in (0, 1] and keep {self.keep} positive")


@dataclass(frozen=True)
class Settled:
    """One problem: kept, no majority or no usable chain; the majority's share of its samples; its rows if kept."""

    problem: str
    outcome: str
    agreement: float
    rows: list[Row]


def run(settings: Settings, context: Context) -> None:
    """chains.jsonl -> distilled.jsonl; the problems not kept, with their agreement, in distilled.rejected.jsonl."""
    chains = read_chains(context)
    output = context.output("distilled", settings, chains=context.path("chains"))
    if output.complete:
        return
    settled = list(settle_problems(chains, settings))
    rows, outcomes = [row for each in settled for row in each.rows], Counter(each.outcome for each in settled)
    logger.info("distill: %d rows; problems: %s", len(rows), dict(outcomes))
    write_jsonl(
        side_path(output.path, "rejected.jsonl"),
        (
            {"id": each.problem, "reason": each.outcome, "agreement": each.agreement}
            for each in settled
            if not each.rows
        ),
    )
    counts = {f"problems: {outcome}": count for outcome, count in outcomes.items()}
    output.finish(rows, problems=len(settled), chains=len(chains), **counts)


def read_chains(context: Context) -> list[Row]:
    """All chains; raises InputError for an unfinished file, a repeated (id, run), or chains of other problems."""
    path = context.path("chains")
    chains = context.read("chains")
    problems = {row["id"] for row in context.read("teacher_problems")}
    seen: set[tuple[str, int]] = set()
    for chain in chains:
        own = (chain["id"], chain["run"])
        if own in seen:
            raise InputError(f"{path}: problem {own[0]!r} has run {own[1]} twice; remove the duplicate row")
        seen.add(own)
    if {name for name, _ in seen} != problems:
        raise InputError(f"{path}: its problems are not those of teacher_problems.jsonl; run the chains again")
    return chains


def distill(chains: Sequence[Row], settings: Settings) -> tuple[list[Row], Counter[str]]:
    """Rows of the problems whose samples agree, and how many problems ended in each outcome."""
    settled = list(settle_problems(chains, settings))
    return [row for each in settled for row in each.rows], Counter(each.outcome for each in settled)


def settle_problems(chains: Sequence[Row], settings: Settings) -> Iterator[Settled]:
    """What becomes of each problem, in the order of its first chain."""
    problems: dict[str, list[Row]] = defaultdict(list)
    for chain in chains:
        problems[chain["id"]].append(chain)
    usable = {name: [chain for chain in own if is_usable(chain, settings.max_tokens)] for name, own in problems.items()}
    observed = observe_programs(
        [chain for own in usable.values() for chain in own if is_code(chain)], settings.workers
    )  # (id, run) -> what its program prints
    for name, own in problems.items():
        groups = group_by_answer(usable[name]) if not is_code(own[0]) else group_by_prints(usable[name], observed)
        majority = max(groups, key=len, default=[])  # the earlier of equals
        agreement = len(majority) / len(own)
        rows: list[Row] = []
        if not majority:
            outcome = "no usable chain"
        elif agreement < settings.threshold:
            outcome = "no majority"
        else:
            outcome = "kept"
            rows = [make_row(chain, agreement, observed) for chain in majority[: settings.keep]]
        yield Settled(name, outcome, agreement, rows)


def is_code(chain: Row) -> bool:
    """Whether the chain answers a code problem."""
    return chain["domain"] == "code"


def is_usable(chain: Row, max_tokens: int | None) -> bool:
    """Finished, in the chat format, and not too long."""
    short = max_tokens is None or chain["completion_tokens"] <= max_tokens
    return chain["finish_reason"] == STOP and chain["format_valid"] and short


def group_by_answer(chains: Sequence[Row]) -> list[Group]:
    """Chains whose final answers are equal, groups and their members in sampling order; those without are left out."""
    groups: list[tuple[str, Group]] = []
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
    return [members for _, members in groups]


def group_by_prints(chains: Sequence[Row], observed: Observed) -> list[Group]:
    """Chains whose programs print the same, likewise; those whose program fails are left out."""
    groups: dict[Prints, Group] = defaultdict(list)
    for chain in chains:
        prints = observed.get((chain["id"], chain["run"]))
        if prints is not None:
            groups[prints].append(chain)
    return list(groups.values())


def make_row(chain: Row, agreement: float, observed: Observed) -> Row:
    """A training row; `agreement` is its group's share of the problem's samples.

    A maths row has the majority's `answer`, a code row the agreed `tests`.
    """
    row = {
        "key": f"{chain['id']}/{chain['run']}",
        "question": chain["question"],
        "prompt": chain["prompt"],
        "completion": chain["completion"],
        "agreement": agreement,
        "finish_reason": chain["finish_reason"],
        "domain": chain["domain"],
        "source": "synthesis",
    }
    if is_code(chain):
        pairs = zip(chain["inputs"], observed[chain["id"], chain["run"]], strict=True)
        tests = [{"input": given, "output": printed} for given, printed in pairs if printed is not FAILED]
        return {**row, "tests": tests}
    return {**row, "answer": extract_answer(chain["completion"]).answer}
