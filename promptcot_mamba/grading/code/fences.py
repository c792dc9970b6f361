"""Fenced blocks of an answer, also where they stand in lists and quotes, behind text, or hold fences of their own.

Markdown closes a block at the first bare fence. A program may print one: where what stands before a fence is no Python
and what stands before a later fence is, the later one closes.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from dataclasses import dataclass
from itertools import islice

LEAD = re.compile(r"(?:[ \t]|>|[-*+][ \t]|\d{1,9}[.)][ \t])*")  # blanks, quote marks and list marks
FENCE = re.compile(r"`{3,}|~{3,}")
QUOTE, SPACED_QUOTE = re.compile(r"^[ \t]*>"), re.compile(r"^[ \t]*>[ \t]?")
PYTHON = frozenset(("python", "py", "ipython", "cpython", "pypy"))
PYTHON_FILE = re.compile(r"\.py\b")
MAX_TRIED = 20  # fences that may close one block
MAX_PARSED = 500_000  # characters: longer text is taken for what it says it is


@dataclass(frozen=True)
class Mark:
    """A line with a fence: what leads to it, text before it, the fence itself, and what follows."""

    line: int
    lead: str
    before: str
    fence: str
    after: str

    @property
    def is_bare(self) -> bool:
        return not self.before.strip() and not self.after.strip()

    def closes(self, opening: Mark) -> bool:
        return self.fence.startswith(opening.fence)


@dataclass(frozen=True)
class Block:
    """A closed block: its info string and its text."""

    info: str
    body: str

    @property
    def language(self) -> str:
        """The info string's first word, in lower case: `python3`, `json`, or nothing."""
        words = self.info.split()
        return words[0].strip("{}.").lower() if words else ""

    @property
    def is_python(self) -> bool:
        """Whether it says so: `python3.11`, `Python 3`, `{.python}`, `ipython3`, `python:main.py`, `main.py`."""
        word = re.match(r"[{.\s]*([a-z]*)", self.info.lower())
        return bool(word and word[1] in PYTHON) or PYTHON_FILE.search(self.info.lower()) is not None


def parse_python(text: str) -> ast.Module | None:
    """The syntax tree of text that is Python, None for other text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def find_marks(lines: list[str]) -> list[Mark]:
    """The lines with one fence. Backticks may stand behind text; a line with two fences is a word set as code."""
    found = []
    for number, line in enumerate(lines):
        if "```" not in line and "~~~" not in line:
            continue
        leading = LEAD.match(line)
        assert leading is not None  # it matches nothing too
        lead = leading[0]
        fences = list(FENCE.finditer(line, len(lead)))
        before, after = line[len(lead) : fences[0].start()] if fences else "", line[fences[0].end() :] if fences else ""
        tildes_in_text = fences and fences[0][0][0] == "~" and before
        if len(fences) == 1 and "`" not in after and not tildes_in_text:
            found.append(Mark(number, lead, before, fences[0][0], after.strip()))
    return found


def find_blocks(text: str) -> tuple[list[Block], bool]:
    """All closed blocks, and whether the text ends inside an open one."""
    lines = text.split("\n")
    marks = find_marks(lines)
    blocks: list[Block] = []
    place = 0
    while place < len(marks):
        opening = marks[place]
        closing = find_closing(lines, marks, place)
        if closing is None and opening.before.strip() and not opening.after:
            place += 1  # a fence left over at the end of a sentence
            continue
        if closing is None:
            return blocks, True
        blocks.append(Block(opening.after, body_between(lines, opening, marks[closing])))
        # A marked fence inside an open block begins the next one: the first was never closed.
        place = closing if marks[closing].after and not marks[closing].before.strip() else closing + 1
    return blocks, False


def find_closing(lines: list[str], marks: list[Mark], place: int) -> int | None:
    """Which mark closes the block that `marks[place]` opens: the first bare one, unless only another leaves Python."""
    opening = marks[place]
    able = list(islice((n for n in range(place + 1, len(marks)) if marks[n].closes(opening)), MAX_TRIED))
    bare = next((other for other in able if marks[other].is_bare), None)
    tried = able if bare is None else [bare, *(other for other in able if other != bare)]
    for other in tried:
        body = body_between(lines, opening, marks[other])
        if len(body) > MAX_PARSED or parse_python(textwrap.dedent(body)) is not None:
            return other
    marked = next((other for other in able if not marks[other].before.strip() and marks[other].after), None)
    usual = [other for other in (bare, marked) if other is not None]
    return min(usual) if usual else next(iter(able), None)


def body_between(lines: list[str], opening: Mark, closing: Mark) -> str:
    """The text of a block, without the quote marks and the indentation that its opening fence has."""
    body = [line.rstrip("\r") for line in lines[opening.line + 1 : closing.line]]
    if closing.before.strip():
        body.append(closing.lead + closing.before)
    rest, *quoted = opening.lead.split(">")
    for part in quoted:  # a blank behind the quote mark belongs to it, where this answer writes one
        quote = SPACED_QUOTE if part[:1].isspace() else QUOTE
        body = [quote.sub("", line) for line in body]
        rest = part[1:]
    indent = len(rest)
    body = [line[min(indent, len(line) - len(line.lstrip(" \t"))) :] for line in body]
    text = "\n".join(body)
    first = next((line for line in body if line.strip()), "")
    nested = opening.lead or opening.before
    return textwrap.dedent(text) if nested and first[:1].isspace() else text
