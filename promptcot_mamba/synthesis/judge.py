"""Judging: each problem is rated by every judge model on five criteria; the verdict comes from a closed set.

The criteria, as in PromptCoT (arXiv 2503.02324, rejection sampling): format, factual accuracy, difficulty alignment,
concept coverage, solvability. A reply whose last line is not a verdict is `unparseable`, its own outcome, asked again
once and counted; it is never read as one of the others.
"""

from __future__ import annotations

import re

from promptcot_mamba.chat_format import split

PERFECT, ACCEPTABLE, BAD, UNPARSEABLE = "perfect", "acceptable", "bad", "unparseable"
VERDICTS = (PERFECT, ACCEPTABLE, BAD)

_DECORATION = re.compile(r"[*_`#>\"'“”‘’\[\](){}<>|~]+")
_LABEL = re.compile(
    r"^(?:[-•]\s*)?(?:(?:the|my)\s+)?(?:(?:final|overall)\s+)?(?:judge?ment|verdict|rating)\s*(?:is\b|[:=\-–—])\s*",
    re.I,
)


def parse_verdict(reply: str) -> str | None:
    """The verdict a reply ends in, or None.

    The last line that holds any letter must be one word of VERDICTS, alone or after a label such as `Final
    Judgement:`, in any case and markdown. "imperfect", "not perfect", two verdicts or a sentence are None.
    """
    parts = split(reply)
    text = reply if parts.closed is None else parts.answer  # a thinking judge's thought is not its verdict
    lines = [line for line in text.splitlines() if any(char.isalpha() for char in line)]
    if not lines:
        return None
    line = _DECORATION.sub(" ", lines[-1]).strip()
    word = _LABEL.sub("", line).strip().rstrip(".!").strip().lower()
    return word if word in VERDICTS else None
