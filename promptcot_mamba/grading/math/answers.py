"""Cut the answer out of a completion: the last balanced `\\boxed{}` after the thought, never a guess.

One pass over the text, so that a megabyte of braces costs milliseconds.
"""

import re
from dataclasses import dataclass

from promptcot_mamba import chat_format

_BOX = re.compile(r"\\f?boxed\b|\\fbox\b")
# Just before a box, what says that its content is not the answer.
_DENIAL = re.compile(r"\b(?:not|rather than|instead of)[\s:$\\(\[*]*$", re.IGNORECASE)
# What may stand between boxes that together list the answers: `\boxed{1} and \boxed{2}`, `\boxed{1}, \boxed{2}`.
_JOINT = re.compile(
    r"(?:\s|[,;.$]|\\[,;:! ()\[\]]|\\q?quad\b|\b(?:and|or)\b"
    r"|\\(?:text|mbox|textrm|mathrm)\s*\{\s*(?:,?\s*(?:and|or))?\s*,?\s*\})*"
)
_JOINED = re.compile(r",|\b(?:and|or)\b")
_NAMED = re.compile(r"(?<![A-Za-z\\_])([A-Za-z](?:_\{?\w\}?)?\s*=)\s*$")  # `x = ` before a box
MAX_JOINT = 80


@dataclass(frozen=True)
class Extraction:
    """What a completion answers.

    `answer` is the content of the last box, or of the whole row where commas, "and" or "or" join it to others: who
    boxes 42 or 43 answers both. `listed` holds the last row of boxes joined by nothing but those and spacing.
    `reason` is None, `truncated` (the thought never ended) or `no_answer` (no closed box after it).
    """

    answer: str | None
    listed: tuple[str, ...] = ()
    reason: str | None = None


def find_boxes(text: str) -> list[tuple[int, int, str]]:
    """All closed, outermost boxes as `(start, end, content)`; `\\boxed 7` without braces holds one token."""
    boxes: list[tuple[int, int, str]] = []
    closing = None
    end = -1
    for match in _BOX.finditer(text):
        if match.start() < end:
            continue  # inside the box before it
        at = match.end()
        while at < len(text) and text[at] in " \n\t":
            at += 1
        if at < len(text) and text[at] == "{":
            if closing is None:
                closing = _match_braces(text)
            close = closing.get(at)
            if close is None:
                continue
            content, end = text[at + 1 : close], close + 1
        else:
            bare = re.compile(r"-?\d[\d.]*|[A-Za-z]\b").match(text, at)
            if at == match.end() or bare is None:
                continue
            content, end = bare.group(), bare.end()
        boxes.append((match.start(), end, content))
    return boxes


def _match_braces(text: str) -> dict[int, int]:
    """Position of each `{` -> position of its `}`. Escaped braces (`\\{`) are signs, not braces."""
    pairs: dict[int, int] = {}
    stack: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, flags=re.DOTALL):
        sign = match.group()
        if sign == "{":
            stack.append(match.start())
        elif sign == "}" and stack:
            pairs[stack.pop()] = match.start()
    return pairs


def unbox(content: str) -> str:
    """Strip boxes that wrap a whole answer: `\\boxed{\\boxed{3}}` answers 3."""
    for _ in range(8):
        inner = find_boxes(content) if _BOX.search(content) else []
        if len(inner) != 1 or content[: inner[0][0]].strip(" $") or content[inner[0][1] :].strip(" $."):
            break
        content = inner[0][2]
    return content.strip()


def extract_answer(completion: str) -> Extraction:
    """The answer of a whole completion, as published predictions write it (beginning with `<think>`)."""
    parts = chat_format.split(completion)
    if parts.closed is False:
        return Extraction(None, reason="truncated")
    return extract_boxed(parts.answer)


def _is_no_answer(text: str, start: int, _end: int, content: str) -> bool:
    """Whether a box quotes the instruction ("within \\boxed{}") or is denied: `\\boxed{4}, not \\boxed{5}`."""
    quoted = content.strip(" \n.") in ("", "\\ldots", "\\dots", "\\cdots")
    return quoted or _DENIAL.search(text, max(0, start - MAX_JOINT), start) is not None


def extract_boxed(text: str) -> Extraction:
    """The answer of a text without a thought."""
    boxes = find_boxes(text)
    while boxes and _is_no_answer(text, *boxes[-1]):
        boxes.pop()
    if not boxes:
        return Extraction(None, reason="no_answer")
    labels = [_NAMED.search(text, max(0, start - MAX_JOINT), start) for start, _, _ in boxes]
    first, together = len(boxes) - 1, False
    while first > 0:
        label = labels[first] if labels[first - 1] else None
        between = text[boxes[first - 1][1] : label.start() if label else boxes[first][0]]
        if len(between) > MAX_JOINT or not _JOINT.fullmatch(between):
            break
        together = together or _JOINED.search(between) is not None
        first -= 1
    contents = tuple(unbox(content) for _, _, content in boxes[first:])
    if together and all(labels[first:]) and all(contents):  # `x = \\boxed{3}, y = \\boxed{5}`
        names = (label[1] for label in labels[first:] if label)
        contents = tuple(f"{name} {content}" for name, content in zip(names, contents, strict=True))
    if not contents[-1]:
        return Extraction(None, reason="no_answer")
    return Extraction(", ".join(contents) if together and len(set(contents)) > 1 else contents[-1], contents)
