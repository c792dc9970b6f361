"""The problem-generation model: its training rows, and new problems from concept sets.

`generator_data` writes `prompt`, `completion` rows for `train.py`; `problems` asks the trained model for several
candidates a concept set. Both use the prompt and the markup of one format.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from promptcot_mamba.jsonl import Row
from promptcot_mamba.log import logger
from promptcot_mamba.synthesis.asking import Task
from promptcot_mamba.synthesis.replies import Rejected, read_pair
from promptcot_mamba.synthesis.stage import LATER, Context, ask_model, content_key
from promptcot_mamba.synthesis.templates import OURS, Format, load_format, mark_up


@dataclass(frozen=True)
class DataSettings:
    """format: of prompts and markup, as a model's; every chosen rationale becomes one training row."""

    format: str = field(default=OURS, metadata=LATER)


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
    context.output("generator_sft", settings, **inputs).finish(make_generator_rows(rows, load_format(settings.format)))


def make_generator_rows(rows: Sequence[Row], form: Format) -> list[Row]:
    """(concepts, level) -> (rationale, problem), as `train.py` reads it."""
    return [
        {
            "prompt": form.render_problem(row["concepts"], row["level"]),
            "completion": form.write(row["rationale"], row["problem"]),
            "source": "generator",
        }
        for row in rows
    ]


def run(settings: Settings, context: Context) -> None:
    """concept_sets.jsonl -> problems.jsonl: rows with `rationale`, `problem`, `text` (both, in our markup)."""
    rows = context.read("concept_sets")
    form = context.format(settings.model)
    if form.levels and (unknown := sorted({row["level"] for row in rows} - set(form.levels))):
        logger.warning(
            "%s: as released, a model of format %s is asked for %s, not %s: see levels of concept_sampling",
            settings.model, form.name, ", ".join(form.levels), ", ".join(unknown),
        )  # fmt: skip
    tasks = [
        Task(
            content_key(row["concepts"], row["level"], candidate),
            form.render_problem(row["concepts"], row["level"]),
            {"concepts": row["concepts"], "level": row["level"], "candidate": candidate},
        )
        for row in rows
        for candidate in range(settings.candidates)
    ]
    inputs = {"concept_sets": context.path("concept_sets")}
    ask_model(context, "problems", settings, tasks, lambda _, reply: parse_problem(reply, form), inputs)


def parse_problem(reply: str, form: Format | None = None) -> Row | Rejected:
    """Rationale and problem of a reply, as `read_pair` finds them."""
    parsed = read_pair(reply, form)
    if isinstance(parsed, Rejected):
        return parsed
    rationale, problem = parsed
    return {"rationale": rationale, "problem": problem, "text": mark_up(rationale, problem)}
