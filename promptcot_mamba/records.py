"""The only shapes that cross a hop: Problem -> Sample -> Grade.

On disk each is one flat JSON object a line, in the published format: a problem's own keys travel unchanged
through samples, so that a prediction file can be read by any tool that reads the problem file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from promptcot_mamba.chat_format import has_turns, user_question
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, iter_jsonl

IGNORE_INDEX = -100  # the label of a token without loss, torch's own default; here, so that data needs no torch
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
    """One sampled completion. `completion` begins with `<think>` also when the prompt had opened it.

    `prompt` is the text that was sent, None where it is the problem row's own. `thinking` says how the completion is
    read: "think" (a thought in `<think>` tags), "none" (all of it is the answer), "" in files that are older than the
    field. `sent` is the rest of what was sent: the template's name, the system prompt, the sampling settings.
    New fields go to the end and have a default, so that old files still read.
    """

    problem_id: str
    run: int  # 0..n-1
    attempt: int  # 0..max_retries-1
    seed: int
    completion: str
    finish_reason: str  # stop | length | loop | refused
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    format_valid: bool
    prompt: str | None = None
    thinking: str = ""
    sent: dict[str, Any] | None = None
    continued: tuple[int, ...] | None = None  # tokens at which the chain was cut by an interruption and continued
    thought_closed: int | None = None  # tokens after which its thought was closed for it
    refusal: str | None = None  # what a server said that refused the problem

    def to_row(self, problem: Problem) -> Row:
        """The published row: the problem's keys, then the sample's, those left out that say nothing.

        See `_displaced` for a `question` that the problem has not.
        """
        row = dict(vars(self))  # asdict would copy every value, ten times slower
        del row["problem_id"]
        said = {name: value for name, value in row.items() if name not in _YOUNG or value != _YOUNG[name]}
        return {**_own(problem), **said, **_displaced(problem, self.prompt)}

    @classmethod
    def from_row(cls, row: Row) -> Sample:
        """A published row's sample; fields that are younger than the file take their defaults.

        Raises InputError naming a field that no row of this program lacks, or one of another kind.
        """
        known = sample_fields({name: row[name] for name in _FIELDS if name in row and name != "prompt"})
        missing = [name for name in _NEEDED if name not in known]
        if missing:
            raise InputError(f"no {', '.join(map(repr, missing))}; not written by this program")
        prompt = row.get("prompt") if "sent" in row or "thinking" in row else None
        return cls(problem_id=problem_id(row) or "", prompt=prompt, **known)


_YOUNG: Row = {item.name: item.default for item in fields(Sample) if item.default is not MISSING}
_NEEDED = tuple(item.name for item in fields(Sample) if item.name not in {"problem_id", *_YOUNG})
_FIELDS = (*_NEEDED, *_YOUNG)
_KINDS: dict[type | tuple[type, ...], tuple[str, ...]] = {
    int: ("run", "attempt", "seed", "prompt_tokens", "completion_tokens", "thought_closed"),
    str: ("problem_id", "completion", "finish_reason", "prompt", "thinking", "refusal"),
    (int, float): ("seconds",),
    bool: ("format_valid",),
    dict: ("sent",),
    (list, tuple): ("continued",),
}
_KIND = {name: kind for kind, names in _KINDS.items() for name in names}


def sample_fields(fields: Row) -> Row:
    """Values of a sample's fields as it has them: 46.0, which pandas makes of 46, is 46, and null where a field may be
    left out is that. Raises InputError naming a field of another kind."""
    found = {}
    for name, value in fields.items():
        kind = _KIND[name]
        if value is None and name in _YOUNG:
            continue
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InputError(f"{name!r} is {value!r:.40}, which is no value of it")
        found[name] = value
    return found


_ONCE = ("prompt", "sent")  # in a grouped row, for all its samples
_LISTS = {name: name if name == "seconds" else f"{name}s" for name in _FIELDS if name not in _ONCE}


def _own(problem: Problem) -> Row:
    """A problem's keys, without what an earlier sampling may have left there: its values are no new sample's."""
    return {name: value for name, value in problem.fields.items() if name == "prompt" or name not in _FIELDS}


def _displaced(problem: Problem, sent: str | None) -> Row:
    """The problem's prompt as `question`, where another was sent and the file has no `question`.

    A grader may need it: HumanEval's publisher writes the function's head so.
    """
    if problem.question is not None or problem.prompt is None or sent in (None, problem.prompt):
        return {}
    return {"question": user_question(problem.prompt) if has_turns(problem.prompt) else problem.prompt}


def grouped_row(problem: Problem, samples: Sequence[Sample]) -> Row:
    """One row for all samples of a problem: its keys, and for each field of a sample the list of its values.

    What was sent is the same for all of them and stands once. `ungroup` is the way back.
    """
    once = {name: next((value for s in samples if (value := getattr(s, name)) is not None), None) for name in _ONCE}
    lists = {name: [getattr(sample, name) for sample in samples] for name in _LISTS}
    said = {
        name: values
        for name, values in lists.items()
        if _LISTS[name] in problem.fields or any(value != _YOUNG.get(name) for value in values)
    }
    return {
        **_own(problem),
        **{name: value for name, value in once.items() if value is not None},
        **{_LISTS[name]: values for name, values in said.items()},
        **_displaced(problem, once["prompt"]),
    }


def is_grouped(row: Row) -> bool:
    """Whether a row holds all samples of a problem: a list of `completions`, and no `completion`."""
    return isinstance(row.get("completions"), list) and "completion" not in row


def ungroup(row: Row) -> list[Row]:
    """The rows of a grouped row's samples, as `Sample.to_row` writes them; any other row is its own.

    The lists that `grouped_row` names are taken apart, in other tools' rows too; whatever else a row holds is every
    sample's, but for a `run`. Raises InputError where a list is longer or shorter than that of the completions.
    """
    if not is_grouped(row):
        return [row]
    lists = {one: row[many] for one, many in _LISTS.items() if isinstance(row.get(many), list)}
    count = len(lists["completion"])
    for one, values in lists.items():
        if len(values) != count:
            raise InputError(f"{_LISTS[one]!r} holds {len(values)} values for {count} completions")
    own = {name: value for name, value in row.items() if name != "run" and name not in {_LISTS[one] for one in lists}}
    values_of = ({one: values[place] for one, values in lists.items()} for place in range(count))
    return [own | {one: value for one, value in given.items() if value != _YOUNG.get(one)} for given in values_of]


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
