"""Formats: the prompts a model is asked with, and the markup in which it writes a rationale and a problem.

A format is one YAML file: `ours.yaml` in `prompts/`, `promptcot_release.yaml` and `promptcot2_code.yaml` beside it (the
released generators'), or yours, by its path. What a file leaves out is ours; a `problem` prompt of its own ends as it
is written, or with the file's own `prompt_end`.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from promptcot_mamba.errors import InputError

PROMPTS = Path(__file__).parent / "prompts"
OURS = "ours"
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_FIELDS = ("reply", "prompt_end", "prompts", "levels")


@dataclass(frozen=True)
class Format:
    """How one model is asked and answers.

    reply: what a problem-generation model writes, with `{{rationale}}` and `{{problem}}` in it; prompt_end: what ends
    its prompt; levels: those it was trained on, none where any label will do; repairs: whether a reply that cannot be
    read is shown to the model once, to be written again.
    """

    name: str
    prompts: Mapping[str, str]
    reply: str
    prompt_end: str
    levels: tuple[str, ...] = ()
    repairs: bool = False

    def render(self, name: str, **values: str | int) -> str:
        """Fill a prompt; values are inserted as they are. Raises KeyError unless they are exactly its placeholders."""
        text = self.prompts[name]
        wanted = set(_PLACEHOLDER.findall(text))
        if wanted != set(values):
            raise KeyError(f"prompt {name!r} of {self.name} has placeholders {sorted(wanted)}, got {sorted(values)}")
        return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), text)

    def render_problem(self, concepts: Sequence[str], level: str) -> str:
        """The problem-generation model's prompt with its end: the same text when it is trained, scored and used."""
        return self.render("problem", concepts=number_lines(concepts), level=level) + self.prompt_end

    def write(self, rationale: str, problem: str) -> str:
        """A rationale and a problem as the problem-generation model writes them."""
        values = {"rationale": rationale.strip(), "problem": problem.strip()}
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.reply)

    @property
    def opening(self) -> str:
        """What a reply in this markup begins with."""
        return _PLACEHOLDER.split(self.reply)[0].strip()

    @property
    def pattern(self) -> re.Pattern[str]:
        """Finds a reply in exactly this markup, whatever white space stands where the form has some or none."""
        pieces = _PLACEHOLDER.split(self.reply)
        marks = [r"\s*".join(map(re.escape, piece.split())) for piece in pieces[::2]]
        last = rf"\s*{marks[2]}" if marks[2] else r"\s*\Z"
        return re.compile(rf"{marks[0]}\s*(?P<{pieces[1]}>.+?)\s*{marks[1]}\s*(?P<{pieces[3]}>.+?){last}", re.DOTALL)

    @property
    def fingerprint(self) -> str:
        """Differs where prompts or markup do."""
        text = repr((sorted(self.prompts.items()), self.reply, self.prompt_end))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@cache
def load_format(name: str = OURS) -> Format:
    """A format by its name in `prompts/`, or by the path of a YAML file of yours.

    Raises InputError naming the file and what of it is missing, unknown or without its placeholders.
    """
    path = PROMPTS / f"{name}.yaml"
    if not path.exists():
        path = Path(name)
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in PROMPTS.glob("*.yaml")))
            raise InputError(f"format {name}: no such format or file; known: {known}, or the path of a YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: malformed YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected 'key: value' lines, found {type(values).__name__}")
    if name == OURS:
        return Format(name, values["prompts"], values["reply"], values["prompt_end"])
    return _complete(path, name, values, load_format(OURS))


def _complete(path: Path, name: str, values: dict[str, Any], ours: Format) -> Format:
    prompts = values.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise InputError(f"{path}: prompts: expected a mapping of names to texts, found {type(prompts).__name__}")
    if unknown := sorted(set(values) - set(_FIELDS)) or sorted(set(prompts) - set(ours.prompts)):
        known = f"{', '.join(_FIELDS)}; under prompts: {', '.join(ours.prompts)}"
        raise InputError(f"{path}: unknown {unknown[0]!r}; known: {known}")
    texts = {"reply": values.get("reply", ours.reply), **prompts}
    for key, text in texts.items():
        wanted = {"rationale", "problem"} if key == "reply" else set(_PLACEHOLDER.findall(ours.prompts[key]))
        found = _PLACEHOLDER.findall(text) if isinstance(text, str) else []
        if set(found) != wanted or (key == "reply" and len(found) != 2):
            raise InputError(
                f"{path}: {key}: expected a text with {', '.join(f'{{{{{each}}}}}' for each in sorted(wanted))}"
            )
    if not all(re.split(_PLACEHOLDER, texts["reply"])[:4:2]):
        raise InputError(f"{path}: reply: something must stand before each of its two parts, to find them by")
    end = values.get("prompt_end", "" if "problem" in prompts else ours.prompt_end)
    if not isinstance(end, str):
        raise InputError(f'{path}: prompt_end: expected a text ("" for none), found {end!r}')
    levels = values.get("levels") or []
    if not isinstance(levels, list) or not all(isinstance(level, str) for level in levels):
        raise InputError(f"{path}: levels: expected a list of labels, found {levels!r:.80}")
    return Format(name, {**ours.prompts, **prompts}, texts["reply"], end, tuple(levels))


def mark_for(text: str) -> str:
    """A line to put around a text that somebody else wrote: a text cannot hold it, since it follows from the text."""
    return f"===== {hashlib.blake2b(text.encode(errors='surrogatepass'), digest_size=8).hexdigest()} ====="


def number_lines(concepts: Sequence[str]) -> str:
    """Concepts as a numbered list, one a line."""
    return "\n".join(f"{i}. {concept}" for i, concept in enumerate(concepts, start=1))


def mark_up(rationale: str, problem: str) -> str:
    """A rationale and a problem as our problem-generation model writes them."""
    return load_format().write(rationale, problem)
