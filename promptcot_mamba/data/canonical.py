"""The one shape every training source is turned into, and the id that names a row by its content."""

import hashlib
from dataclasses import dataclass, field

from promptcot_mamba.chat_markup import Rendered, Turn
from promptcot_mamba.jsonl import Row

DOMAINS = ("math", "code", "other")
ID_BYTES = 16


class UnusableRowError(Exception):
    """A raw row that holds no training example; `reason` is the name it is counted under, `detail` says more."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(detail or reason)
        self.reason = reason


@dataclass(frozen=True)
class CanonicalRow:
    """One supervised example: a bare question, what was said before it, and an answer (begins with its `<think>`)."""

    prompt: str
    completion: str
    domain: str  # one of DOMAINS
    gold: str | None = None  # a reference answer, where the source has one
    finish_reason: str | None = None  # where the source says how the completion ended
    history: tuple[Turn, ...] = ()  # a system turn and earlier exchanges
    from_turns: bool = False  # whether it was read from messages, which often answer without a thought
    conversation: str = ""  # what every example of one conversation is known by; "": by its own questions
    rendered: Rendered | None = None  # the prompt as a chat format wrote it, where the row has it so
    meta: Row = field(default_factory=dict)  # source, licence and what else the row says of its origin

    @property
    def id(self) -> bytes:
        """The content hash: equal for rows whose prompt and completion are equal."""
        return hash_text(*(part for turn in self.history for part in turn), self.prompt, self.completion)

    @property
    def topic(self) -> str:
        """What is asked: what duplicates and benchmark problems are looked for in."""
        if self.conversation:
            return self.conversation
        asked = [turn.text for turn in self.history if turn.role == "user"]
        return "\n".join([*asked, self.prompt]) if asked else self.prompt


def hash_text(*parts: str) -> bytes:
    """ID_BYTES that depend on the parts and on where each ends."""
    digest = hashlib.blake2b(digest_size=ID_BYTES)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()
