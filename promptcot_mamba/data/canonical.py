"""The one shape every training source is turned into, and the id that names a row by its content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from promptcot_mamba.chat_format import MATH_INSTRUCTION, render_prompt
from promptcot_mamba.jsonl import Row

DOMAINS = ("math", "code", "other")
ID_BYTES = 16


class UnusableRowError(Exception):
    """A raw row that holds no training example; `reason` is the name it is counted under."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class CanonicalRow:
    """One supervised example: a bare question and a chain of thought that begins with `<think>`."""

    prompt: str
    completion: str
    domain: str  # one of DOMAINS
    gold: str | None = None  # a reference answer, where the source has one
    finish_reason: str | None = None  # where the source says how the completion ended
    published_prompt: str | None = None  # the whole chat text, where the source has it, in its own markers
    meta: Row = field(default_factory=dict)

    @property
    def id(self) -> bytes:
        """The content hash: equal for rows whose prompt and completion are equal."""
        return hash_text(self.prompt, self.completion)


def hash_text(*parts: str) -> bytes:
    """ID_BYTES that depend on the parts and on where each ends."""
    digest = hashlib.blake2b(digest_size=ID_BYTES)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()


def render_for(row: CanonicalRow, instruction: str | None) -> str:
    """The prompt as the model sees it.

    `instruction` None asks for what evaluation asks of this domain: the boxed-answer sentence for maths, nothing
    for the rest.
    """
    if instruction is None:
        instruction = MATH_INSTRUCTION if row.domain == "math" else ""
    return render_prompt(row.prompt, instruction)
