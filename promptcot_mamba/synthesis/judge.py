"""Judging: each problem is rated by every judge model on five criteria; the verdict comes from a closed set.

The criteria, as in PromptCoT (arXiv 2503.02324, rejection sampling): format, factual accuracy, difficulty alignment,
concept coverage, solvability. A reply whose last line is not a verdict is `unparseable`, its own outcome, asked again
once and counted; it is never read as one of the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from promptcot_mamba.chat_format import split
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row
from promptcot_mamba.records import derive_seed
from promptcot_mamba.synthesis.stage import Context, Rejected, Task, ask_model
from promptcot_mamba.synthesis.templates import number_lines, render_template

PERFECT, ACCEPTABLE, BAD, UNPARSEABLE = "perfect", "acceptable", "bad", "unparseable"
VERDICTS = (PERFECT, ACCEPTABLE, BAD)

_DECORATION = re.compile(r"[*_`#>\"'“”‘’\[\](){}<>|~]+")
_LABEL = re.compile(
    r"^(?:[-•]\s*)?(?:(?:the|my)\s+)?(?:(?:final|overall)\s+)?(?:judge?ment|verdict|rating)\s*(?:is\b|[:=\-–—])\s*",
    re.I,
)


def parse_verdict(reply: str) -> str | None:
    """The verdict a reply ends in, or None.

    The last line that holds any letter must be one word of VERDICTS, alone or after a label such as `Final
    Judgement:`, in any case and markdown. "imperfect", "not perfect", two verdicts or a sentence are None.
    """
    answer = split(reply).answer  # a thinking judge's thought is not its verdict
    lines = [line for line in answer.splitlines() if any(char.isalpha() for char in line)]
    if not lines:
        return None
    line = _DECORATION.sub(" ", lines[-1]).strip()
    word = _LABEL.sub("", line).strip().rstrip(".!").strip().lower()
    return word if word in VERDICTS else None


@dataclass(frozen=True)
class Settings:
    """models: names of the judges, each asked about every problem; attempts: 2 asks an unparseable reply again."""

    models: list[str]
    max_tokens: int = 2048
    attempts: int = 2


def run(settings: Settings, context: Context) -> None:
    """problems.jsonl -> judgements_<model>.jsonl for each judge, then judgements.jsonl with all verdicts a problem."""
    rows = context.read("problems")
    inputs = {"problems": context.path("problems")}
    if not settings.models or len(set(settings.models)) != len(settings.models):
        raise InputError(f"judge: models {settings.models}: expected one or more different judges")
    for name in settings.models:
        ask_model(
            context,
            f"judgements_{name}",
            OneJudge(name, settings.max_tokens, settings.attempts),
            [make_task(row) for row in rows],
            lambda _, reply: parse_judgement(reply),
            inputs,
            seed=derive_seed(context.seed, name),  # two judges of one model are not to be each other's copies
            keep_rejected=lambda reason: {"verdict": UNPARSEABLE, "reason": reason},
        )
    verdicts = {
        name: {row["key"]: row["verdict"] for row in context.read(f"judgements_{name}")} for name in settings.models
    }
    paths = {f"judgements_{name}": context.path(f"judgements_{name}") for name in settings.models}
    output = context.output("judgements", settings, **inputs, **paths)
    if not output.complete:
        judged = ({**row, "verdicts": {name: verdicts[name][row["key"]] for name in settings.models}} for row in rows)
        output.finish(judged, problems=len(rows))


@dataclass(frozen=True)
class OneJudge:
    """What of the settings changes one judge's replies; other judges may come and go."""

    model: str
    max_tokens: int
    attempts: int


def make_task(row: Row) -> Task:
    """The question about one problem; the judgement has the problem's key."""
    concepts = number_lines(row["concepts"])
    return Task(row["key"], render_template("judge", concepts=concepts, level=row["level"], text=row["text"]), {})


def parse_judgement(reply: str) -> Row | Rejected:
    """The verdict, with the reply it came from."""
    verdict = parse_verdict(reply)
    return Rejected("no verdict in the last line") if verdict is None else {"verdict": verdict, "reply": reply}
