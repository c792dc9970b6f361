"""Inputs for code problems: a model writes what a program may be given, so that programs can be compared.

There is no reference program for a new problem. Two programs that print the same for the same inputs agree, as two
chains with the same final answer do; `distill` counts the agreement.
"""

from dataclasses import dataclass

from promptcot_mamba.grading.code.extract import fenced_blocks
from promptcot_mamba.jsonl import Row
from promptcot_mamba.synthesis.asking import Task
from promptcot_mamba.synthesis.replies import Rejected, read_answer
from promptcot_mamba.synthesis.stage import Context, ask_model
from promptcot_mamba.synthesis.templates import Format


@dataclass(frozen=True)
class Settings:
    """model: a name under `models`; count: inputs a problem."""

    model: str
    count: int = 6
    max_tokens: int = 2048
    attempts: int = 2


def run(settings: Settings, context: Context) -> None:
    """kept_problems.jsonl -> code_inputs.jsonl: the same rows with `inputs`, texts for standard input."""
    rows = context.read("kept_problems")
    form = context.format(settings.model)
    tasks = [make_task(row, settings.count, form) for row in rows]
    inputs = {"kept_problems": context.path("kept_problems")}
    ask_model(context, "code_inputs", settings, tasks, lambda _, reply: parse_inputs(reply, settings.count), inputs)


def make_task(row: Row, count: int, form: Format) -> Task:
    """The question about one problem; the row keeps the problem's key and all else of it."""
    prompt = form.render("inputs", problem=row["problem"], count=count)
    return Task(row["key"], prompt, {name: value for name, value in row.items() if name not in ("key", "attempt")})


def parse_inputs(reply: str, count: int) -> Row | Rejected:
    """Exactly `count` different, non-empty fenced blocks; the text around them does not matter."""
    text = read_answer(reply)
    if isinstance(text, Rejected):
        return text
    blocks, is_open = fenced_blocks(text)
    inputs = [body.strip("\n") + "\n" for _, body in blocks]
    if is_open or len(inputs) != count:
        return Rejected(f"not {count} fenced blocks", reparable=True)
    if len({text.strip() for text in inputs} - {""}) != count:
        return Rejected("empty or repeated inputs", reparable=True)
    return {"inputs": inputs}
