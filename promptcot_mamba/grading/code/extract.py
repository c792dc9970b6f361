"""Cut the program out of a completion: the last fenced Python program after `</think>`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from promptcot_mamba.chat_format import split

FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)$")
PYTHON = frozenset(("", "python", "python3", "py", "py3", "python2", "cpython", "pypy", "pypy3"))


@dataclass(frozen=True)
class Extracted:
    """A program, or why there is none: `truncated` (the thought or the program never ended) or `no_code`."""

    code: str | None
    reason: str | None = None


def fenced_blocks(text: str) -> tuple[list[tuple[str, str]], bool]:
    """All closed fenced blocks as `(language, body)`, and whether the text ends inside an open one."""
    blocks: list[tuple[str, str]] = []
    fence, language, body = "", "", []
    for line in text.split("\n"):
        mark = FENCE.match(line.rstrip("\r"))
        if not fence:
            if mark:
                fence, body = mark["fence"], []
                language = mark["info"].strip().split(" ")[0].strip("{}.").lower()
        elif mark and not mark["info"].strip() and mark["fence"].startswith(fence):
            blocks.append((language, "\n".join(body)))
            fence = ""
        else:
            body.append(line.rstrip("\r"))
    return blocks, bool(fence)


def extract_program(completion: str, finish_reason: str | None = None) -> Extracted:
    """The last closed block marked as Python, else the last unmarked one.

    An unfinished thought, or a program cut off by the length limit, is `truncated`; text without a program is
    `no_code`. Neither is ever guessed at.
    """
    parts = split(completion)
    if parts.closed is False:
        return Extracted(None, "truncated")
    blocks, is_open = fenced_blocks(parts.answer)
    if is_open and finish_reason == "length":
        return Extracted(None, "truncated")
    marked = [body for language, body in blocks if language in PYTHON - {""}]
    plain = [body for language, body in blocks if not language]
    for body in [*reversed(marked), *reversed(plain)]:
        if body.strip():
            return Extracted(body + "\n")
    return Extracted(None, "truncated" if finish_reason == "length" else "no_code")
