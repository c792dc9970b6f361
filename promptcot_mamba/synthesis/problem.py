"""The problem-generation model: its training rows, and new problems from concept sets.

`generator_data` writes `prompt`, `completion` rows for `train.py`; `problems` asks the trained model for several
candidates a concept set. Both use one prompt, `prompts/problem.txt`, and one markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from promptcot_mamba.chat_format import split
from promptcot_mamba.jsonl import Row
from promptcot_mamba.synthesis.stage import Context, Rejected, Task, ask_model, content_key
from promptcot_mamba.synthesis.templates import mark_up, parse_markup, render_generator_prompt


@dataclass(frozen=True)
class DataSettings:
    """Nothing to choose: every chosen rationale becomes one training row."""


@dataclass(frozen=True)
class Settings:
    """model: the problem-generation model; candidates: problems a concept set."""

    model: str
    candidates: int = 1
    max_tokens: int = 4096
    attempts: int = 1


def run_data(settings: DataSettings, context: Context) -> None:
    """chosen_rationales.jsonl -> generator_sft.jsonl."""
    rows = context.read("chosen_rationales")
    inputs = {"chosen_rationales": context.path("chosen_rationales")}
    context.output("generator_sft", settings, **inputs).finish(make_generator_rows(rows))


def make_generator_rows(rows: Sequence[Row]) -> list[Row]:
    """(concepts, level) -> (rationale, problem), as `train.py` reads it."""
    return [
        {
            "prompt": render_generator_prompt(row["concepts"], row["level"]) + "\n",
            "completion": mark_up(row["rationale"], row["problem"]),
            "source": "generator",
        }
        for row in rows
    ]


def run(settings: Settings, context: Context) -> None:
    """concept_sets.jsonl -> problems.jsonl: rows with `rationale`, `problem`, `text` (both, marked up)."""
    tasks = [
        Task(
            content_key(row["concepts"], row["level"], candidate),
            render_generator_prompt(row["concepts"], row["level"]) + "\n",
            {"concepts": row["concepts"], "level": row["level"], "candidate": candidate},
        )
        for row in context.read("concept_sets")
        for candidate in range(settings.candidates)
    ]
    inputs = {"concept_sets": context.path("concept_sets")}
    ask_model(context, "problems", settings, tasks, lambda _, reply: parse_problem(reply), inputs)


def parse_problem(reply: str) -> Row | Rejected:
    """Rationale and problem of a reply in the markup."""
    parsed = parse_markup(split(reply).answer)
    if parsed is None:
        return Rejected("not one rationale and one problem")
    rationale, problem = parsed
    return {"rationale": rationale, "problem": problem, "text": mark_up(rationale, problem)}
