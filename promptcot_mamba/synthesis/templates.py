"""Prompt files with `{{placeholders}}`, and the markup that carries a rationale and a problem."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

PROMPTS = Path(__file__).parent / "prompts"
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_MARKUP = re.compile(r"\s*<rationale>\n?(.*?)\n?</rationale>\s*<problem>\n?(.*?)\n?</problem>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:rationale|problem)>")


@cache
def _load(name: str) -> str:
    return (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


def render_template(name: str, **values: str | int) -> str:
    """Fill a prompt file; values are inserted as they are. Raises KeyError unless they are exactly its placeholders."""
    text = _load(name)
    wanted = set(_PLACEHOLDER.findall(text))
    if wanted != set(values):
        raise KeyError(f"prompts/{name}.txt has the placeholders {sorted(wanted)}, got {sorted(values)}")
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), text)


def number_lines(concepts: Sequence[str]) -> str:
    """Concepts as a numbered list, one a line."""
    return "\n".join(f"{i}. {concept}" for i, concept in enumerate(concepts, start=1))


def render_generator_prompt(concepts: Sequence[str], level: str) -> str:
    """The problem-generation model's prompt: the same text when it is trained, scored and used."""
    return render_template("problem", concepts=number_lines(concepts), level=level)


def mark_up(rationale: str, problem: str) -> str:
    """A rationale and a problem as the problem-generation model writes them."""
    return f"<rationale>\n{rationale.strip()}\n</rationale>\n<problem>\n{problem.strip()}\n</problem>"


def parse_markup(text: str) -> tuple[str, str] | None:
    """(rationale, problem) of a reply that holds exactly one of each, in order, both non-empty; else None."""
    match = _MARKUP.fullmatch(text)
    if match is None or len(_TAG.findall(text)) != 4:
        return None
    rationale, problem = match[1].strip(), match[2].strip()
    return (rationale, problem) if rationale and problem else None
