"""The only shapes that cross a hop: Problem -> Sample -> Grade.

On disk each is one flat JSON object a line, in the published format: a problem's own keys travel unchanged
through samples, so that a prediction file can be read by any tool that reads the problem file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, iter_jsonl

ID_FIELDS = ("id", "question_id", "task_id", "idx")


def derive_seed(base: int, *address: str | int) -> int:
    """A 31-bit seed for one address (problem id, run, attempt...): independent of order and of what ran before."""
    text = "\x1f".join(str(part) for part in (base, *address))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 33


@dataclass(frozen=True)
class Problem:
    """One problem: its id, the prompt (or a `question` still to be rendered) and the row as it was read."""

    id: str
    prompt: str | None
    fields: Row = field(repr=False)

    @property
    def question(self) -> str | None:
        return self.fields.get("question")

    @property
    def source(self) -> str | None:
        return self.fields.get("source")


def problem_id(row: Row) -> str | None:
    """The first of ID_FIELDS a row holds, as text; `idx`, unique only within a source, is prefixed by it."""
    for name in ID_FIELDS:
        if row.get(name) is not None:
            prefix = f"{row['source']}/" if name == "idx" and row.get("source") else ""
            return f"{prefix}{row[name]}"
    return None


def iter_problems(path: str | Path) -> Iterator[Problem]:
    """Read a problem file.

    Raises InputError naming file and line for a row without id, without `prompt` and `question`, with an empty
    prompt, or with an id seen before.
    """
    seen: dict[str, int] = {}
    for number, row in iter_jsonl(path):
        where = f"{path}:{number}"
        identity = problem_id(row)
        if identity is None:
            raise InputError(f"{where}: no id; add one of the keys {', '.join(ID_FIELDS)}")
        if identity in seen:
            raise InputError(f"{where}: id {identity!r} was already used on line {seen[identity]}")
        seen[identity] = number
        prompt = row.get("prompt")
        if prompt is None and row.get("question") is None:
            raise InputError(f"{where}: missing key 'prompt' (or 'question'); found {', '.join(row)}")
        for name, value in (("prompt", prompt), ("question", row.get("question"))):
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise InputError(f"{where}: {name!r} must be a non-empty text")
        yield Problem(identity, prompt, row)


@dataclass(frozen=True)
class Sample:
    """One sampled completion. `completion` begins with `<think>` also when the prompt had opened it."""

    problem_id: str
    run: int  # 0..n-1
    attempt: int  # 0..max_retries-1
    seed: int
    completion: str
    finish_reason: str  # stop | length | loop
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    format_valid: bool

    def to_row(self, problem: Problem) -> Row:
        """The published row: the problem's keys, then the sample's."""
        row = dict(vars(self))  # asdict would copy every value, ten times slower
        del row["problem_id"]
        return {**problem.fields, **row}


@dataclass(frozen=True)
class Grade:
    """The verdict on one sample. No answer is not a wrong answer: `reason` says which it was."""

    problem_id: str
    run: int
    benchmark: str
    grader: str
    correct: bool
    extracted: str | None
    reason: str  # right | wrong | truncated | no_answer | timeout | ...
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def to_row(self) -> Row:
        row = asdict(self)
        return {**{key: value for key, value in row.items() if key != "extra"}, **self.extra}
