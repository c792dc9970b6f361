"""What is asked costs: every request that was answered, in `usage/`, and a budget that is never exceeded.

A request is counted when it is answered, used or not, so that attempts and repairs are seen; what a killed run was
still waiting for is not. `usage/X.jsonl` belongs to the output `X.jsonl` and only ever grows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, Row
from promptcot_mamba.log import log_once

USED = "used"
# The chains' model, which has no entry under `models`, in a price table.
TEACHER = "teacher"


class BudgetSpentError(Exception):
    """The budget does not reach for the next request; what was answered is on disk."""


def is_amount(value: Any) -> bool:
    """Whether a recipe's value is a finite number of 0 or more."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


@dataclass(frozen=True)
class Price:
    """Money for a million tokens, in whatever currency the table is in."""

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not is_amount(value):
                raise InputError(f"{name} {value!r}: expected money for a million tokens, 0 or more")


@dataclass
class Used:
    """Requests and tokens of one model in one stage; again: requests that asked once more, repairs among them."""

    requests: int = 0
    again: int = 0
    repairs: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def add(self, row: Row) -> None:
        self.requests += 1
        self.again += bool(row["attempt"]) or bool(row.get("repair"))
        self.repairs += bool(row.get("repair"))
        self.prompt_tokens += row["prompt_tokens"]
        self.completion_tokens += row["completion_tokens"]
        self.outcomes[row["outcome"]] += 1

    def __iadd__(self, other: Used) -> Used:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        return self

    def money(self, price: Price | None) -> float | None:
        """None without a price."""
        if price is None:
            return None
        return (self.prompt_tokens * price.prompt + self.completion_tokens * price.completion) / 1e6


def count_usage(rows: Iterable[Row]) -> dict[str, Used]:
    """By model, in the order they first answered."""
    used: dict[str, Used] = {}
    for row in rows:
        used.setdefault(row["model"], Used()).add(row)
    return used


def read_usage(work_dir: Path) -> dict[str, dict[str, Used]]:
    """Output -> model -> what was asked for it, of a work folder and its rounds (`round_1/problems`)."""
    found = {}
    for path in sorted([*work_dir.glob("usage/*.jsonl"), *work_dir.glob("round_*/usage/*.jsonl")]):
        name = str(path.relative_to(work_dir)).replace("usage/", "").removesuffix(".jsonl")
        found[name] = count_usage(Tail(path).new_rows())
    chains = chain_usage(Tail(work_dir / "chains.attempts.jsonl").new_rows())
    if chains.requests:
        found["chains"] = {TEACHER: chains}
    return found


class Tail:
    """A file that somebody else may be writing: its whole lines, each once. A killed writer's last one may be torn."""

    def __init__(self, path: Path, start: int = 0):
        self.path, self.offset = path, start

    def new_rows(self) -> Iterator[Row]:
        """Rows of the lines that ended since the last call; what is no row is the writer's to mend, and left out."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                try:
                    row = json.loads(line)
                except ValueError:
                    log_once(f"{self.path}: holds a line that is no JSON; it is not counted")
                    continue
                if isinstance(row, dict):
                    yield row


def chain_usage(attempts: Iterable[Row]) -> Used:
    """Of the sampling program's journal: a prompt is counted for each attempt."""
    used = Used()
    for row in attempts:
        outcome = USED if row.get("format_valid") else str(row.get("finish_reason"))
        numbers = {name: row.get(name) or 0 for name in ("attempt", "prompt_tokens", "completion_tokens")}
        used.add({**numbers, "outcome": outcome})
    return used


def read_prices(table: Mapping[str, Mapping[str, float]]) -> dict[str, Price]:
    """A price table: model -> {prompt, completion}, both of them; raises InputError naming what is wrong with it."""
    prices, halves = {}, [each.name for each in fields(Price)]
    for name, values in table.items():
        if unknown := set(values) - set(halves):
            raise InputError(f"prices: {name}: unknown {sorted(unknown)[0]!r}; known: {', '.join(halves)}")
        try:
            prices[name] = Price(**{**dict.fromkeys(halves, 0.0), **values})
        except InputError as error:
            raise InputError(f"prices: {name}: {error}") from None
        if missing := [half for half in halves if half not in values]:
            raise InputError(f"prices: {name}: no {missing[0]}; give {' and '.join(halves)}, 0 for what costs nothing")
    return prices


class Spending:
    """Writes usage and holds the budget: prompt and completion tokens of all stages, earlier runs' included.

    A request goes out only if its prompt and its longest completion fit beside what is spent and under way.
    """

    def __init__(self, work_dir: Path, budget: int | None = None):
        self.work_dir, self.budget = work_dir, budget
        self.spent = self.under_way = 0
        self._asked = False
        self.count_again()

    def count_again(self) -> None:
        """Read what is spent from the folder: a stage's own program may have spent some."""
        self.spent = sum(used.tokens for models in read_usage(self.work_dir).values() for used in models.values())

    def open(self, work_dir: Path, output: str) -> DurableAppender:
        """The usage file of one output, in the work folder or that of a round."""
        return DurableAppender(work_dir / "usage" / f"{output}.jsonl")

    def fits(self, tokens: int) -> bool:
        """Whether a request of at most so many tokens can go out now.

        Raises, where nothing under way may leave room: InputError if the budget was spent before this run asked
        anything, else BudgetSpentError.
        """
        if self.budget is None or self.spent + self.under_way + tokens <= self.budget:
            return True
        if self.under_way:
            return False
        words = f"{self.spent:,} of {self.budget:,} tokens are spent and the next request may take {tokens:,}"
        if not self._asked:
            raise InputError(f"--budget_tokens {self.budget}: {words}; raise it, or leave it out, to go on")
        raise BudgetSpentError(f"--budget_tokens {self.budget}: {words}")

    def take(self, tokens: int) -> None:
        """A request goes out that may take so many tokens."""
        self.under_way += tokens
        self._asked = True

    def settle(self, file: DurableAppender, taken: int, row: Row) -> None:
        """It is answered."""
        self.under_way -= taken
        self.spent += row["prompt_tokens"] + row["completion_tokens"]
        file.append(row)
