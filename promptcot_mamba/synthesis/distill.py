"""Distillation: of a teacher's chains for a problem, those that most of them agree with.

What a chain stands for, and when two agree, is its domain's to say (`domains/`): a final answer, what a program prints
on the problem's inputs, a quantity with its unit. What comes out is rows that `prepare_sft_data` reads with its
`synthesis` adapter.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.backend import STOP
from promptcot_mamba.synthesis.domains import Domain, find_domain
from promptcot_mamba.synthesis.stage import LATER, Context

KEPT = "kept"
Group = list[Row]
Observed = Mapping[tuple[str, int], Any]  # (id, run) -> what a chain stands for


@dataclass(frozen=True)
class Settings:
    """threshold: least share of a problem's samples, unusable ones counted, that must agree, to believe the answer.

    keep: chains a problem; or a band, `[0.1, 0.8]`, of shares in which problems stay: above it they are too easy, below
    too hard. With a band, `chains` a problem are kept. max_tokens: longer chains are unusable; workers: sandboxes at
    work at once, for code.
    """

    threshold: float = 0.5
    keep: int | list[float] = 1
    max_tokens: int | None = None
    workers: int | None = None
    chains: int = field(default=1, metadata=LATER)

    def __post_init__(self) -> None:
        whole = isinstance(self.keep, int) and not isinstance(self.keep, bool)
        if not 0 < self.threshold <= 1 or not (isinstance(self.keep, list) or (whole and self.keep >= 1)):
            raise InputError(f"threshold {self.threshold} must be in (0, 1] and keep {self.keep} positive")
        check_band(self.band)
        if self.chains < 1 or (self.chains > 1 and not isinstance(self.keep, list)):
            raise InputError(f"chains {self.chains}: 1 or more, and of a band; without one `keep` says how many")
        if self.band[1] < self.threshold:
            raise InputError(f"keep {self.keep}: nothing in it reaches threshold {self.threshold}; lower the threshold")

    @property
    def band(self) -> list[float]:
        """The shares in which problems stay."""
        return self.keep if isinstance(self.keep, list) else [0.0, 1.0]

    @property
    def most(self) -> int:
        """Chains kept of a problem."""
        return self.chains if isinstance(self.keep, list) else self.keep


def check_band(band: list[float]) -> None:
    """Raises InputError unless it is two rates in order."""
    if not isinstance(band, list):
        raise InputError(f"keep {band!r}: expected two rates in order, from 0 to 1, as in [0.1, 0.8]")
    numbers = [each for each in band if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(numbers) != 2 or len(band) != 2 or not 0 <= numbers[0] < numbers[1] <= 1:
        raise InputError(f"keep {band}: expected two rates in order, from 0 to 1, as in [0.1, 0.8]")


@dataclass(frozen=True)
class Settled:
    """One problem: kept, or why not; the majority's share of its samples; its rows if kept; and how many usable chains
    say nothing that its domain knows: no answer, an unknown unit.
    """

    problem: str
    outcome: str
    agreement: float
    rows: list[Row]
    unread: int


def run(settings: Settings, context: Context) -> None:
    """chains.jsonl -> distilled.jsonl; the problems not kept, with their agreement, in distilled.rejected.jsonl."""
    chains = read_chains(context)
    output = context.output("distilled", settings, chains=context.path("chains"))
    if output.complete:
        return
    settled = list(settle_problems(chains, settings))
    rows, outcomes = sum_up(settled)
    unread = sum(each.unread for each in settled)
    logger.info("distill: %d rows; problems: %s; answers not understood: %d", len(rows), dict(outcomes), unread)
    rejected = [
        {"id": each.problem, "reason": each.outcome, "agreement": each.agreement, "unread": each.unread}
        for each in settled
        if not each.rows
    ]
    write_jsonl(side_path(output.path, "rejected.jsonl"), rejected)
    counts = {f"problems: {outcome}": count for outcome, count in outcomes.items()}
    output.finish(rows, problems=len(settled), unread=unread, chains=len(chains), **counts)


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
    return sum_up(list(settle_problems(chains, settings)))


def sum_up(settled: Sequence[Settled]) -> tuple[list[Row], Counter[str]]:
    return [row for each in settled for row in each.rows], Counter(each.outcome for each in settled)


def settle_problems(chains: Sequence[Row], settings: Settings) -> Iterator[Settled]:
    """What becomes of each problem, in the order of its first chain."""
    problems: dict[str, list[Row]] = defaultdict(list)
    for chain in chains:
        problems[chain["id"]].append(chain)
    usable = {name: [chain for chain in own if is_usable(chain, settings.max_tokens)] for name, own in problems.items()}
    domains = {name: find_domain(own[0]["domain"]) for name, own in problems.items()}
    observed: dict[tuple[str, int], Any] = {}
    for domain in {id(each): each for each in domains.values()}.values():
        own_chains = [chain for name in usable if domains[name] is domain for chain in usable[name]]
        observed |= domain.observe(own_chains, settings.workers)
    for name, own in problems.items():
        groups = group_chains(usable[name], domains[name], observed)
        majority = max(groups, key=len, default=[])  # the earlier of equals
        agreement = len(majority) / len(own)
        outcome = decide(bool(majority), agreement, settings)
        kept = majority[: settings.most] if outcome == KEPT else []
        rows = [make_row(chain, agreement, domains[name], observed) for chain in kept]
        yield Settled(name, outcome, agreement, rows, unread=len(usable[name]) - sum(map(len, groups)))


def decide(has_majority: bool, agreement: float, settings: Settings) -> str:
    """What becomes of a problem so many of whose chains agree."""
    if not has_majority:
        return "no usable chain"
    if agreement < settings.threshold:
        return "no majority"
    return place_in_band(agreement, settings.band)


def place_in_band(rate: float, band: Sequence[float]) -> str:
    """Whether a rate is in the band, its ends included, up to rounding."""
    if rate > band[1] + 1e-9:
        return "too easy"
    return "too hard" if rate < band[0] - 1e-9 else KEPT


def is_usable(chain: Row, max_tokens: int | None) -> bool:
    """Finished, in the chat format, and not too long."""
    short = max_tokens is None or chain["completion_tokens"] <= max_tokens
    return chain["finish_reason"] == STOP and chain["format_valid"] and short


def group_chains(chains: Sequence[Row], domain: Domain, observed: Observed) -> list[Group]:
    """Chains that agree with the first of their group, in sampling order; those that stand for nothing are left out."""
    groups: list[tuple[Any, Group]] = []
    for chain in chains:
        value = observed.get((chain["id"], chain["run"]))
        if value is None:
            continue
        for representative, members in groups:
            if domain.same(representative, value):
                members.append(chain)
                break
        else:
            groups.append((value, [chain]))
    return [members for _, members in groups]


def make_row(chain: Row, agreement: float, domain: Domain, observed: Observed) -> Row:
    """A training row; `agreement`: its group's share of the problem's samples. Its domain says what was agreed on."""
    return {
        "key": f"{chain['id']}/{chain['run']}",
        "question": chain["question"],
        "prompt": chain["prompt"],
        "completion": chain["completion"],
        "agreement": agreement,
        "finish_reason": chain["finish_reason"],
        "domain": chain["domain"],
        "source": "synthesis",
        **domain.describe(chain, observed[chain["id"], chain["run"]]),
    }
