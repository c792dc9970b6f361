"""Lists of concepts as models write them: numbered, in bullets, as JSON or Python, in a table, with or without why.

A concept is its name. What a model adds to it (`**a b**: used to x`, `a b - what x is`) is an explanation and left out:
concepts are compared, counted and drawn by name.
"""

import ast
import re
import unicodedata
from typing import Any

from promptcot_mamba.synthesis.json_replies import find_objects, read_value
from promptcot_mamba.synthesis.merging import concept_signature
from promptcot_mamba.synthesis.replies import Rejected, is_refusal, read_answer, trim_chat

_TITLE = r"(?:concept|knowledge point|foundational concept|知识点)"
_NUMBERED = re.compile(
    rf"^ {{0,3}}(?:#{{1,6}} *)?(?:\*\*)?(?:{_TITLE} +)?\(?(\d{{1,3}})(?:\\?[.):：、．](?!\d)| +-(?= ))"
    r"(?:\*\*)?\s*(.+?)\s*$",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^(?:[-*•–]\s+)(.+?)\s*$")
_TITLED = re.compile(rf"^(?:\*\*)?{_TITLE}(?:\s*\d+)?\s*(?:[:：]\s*\*\*|\*\*\s*[:：]|[:：])\s*", re.IGNORECASE)
_BOLD = re.compile(r"^(\*\*|__)(.+?)\1\s*(.*)$")
_EXPLAINED = re.compile(r"^(.+?)(:\s+|：|\s+[–—]\s+|\s+-\s+)(.+)$")
# A list that begins a line, alone or as a value, or stands behind the colon of one that is no item itself.
_LIST = re.compile(
    r"(?:^[ \t]*(?:\w+[ \t]*=[ \t]*)?|^(?![ \t]*(?:[-*•–]|\(?\d))[^\n\[\]]*[:：][ \t]*)(\[[^\[\]]*\])", re.MULTILINE
)
MOST_WORDS = 8  # of a name that is not bold: what is longer is a sentence, not a name with its explanation


def parse_concepts(reply: str, k: int) -> list[str] | Rejected:
    """Exactly k distinct concepts; a numbered list, which is what was asked for, must count from 1 to k.

    One that does is read before a list in brackets, which may be of something else.
    """
    text = read_answer(reply)
    if isinstance(text, Rejected):
        return Rejected(f"not {k} lines: {text.reason}", reparable=False)
    lines = trim_chat(text).split("\n")
    numbered = [match for match in map(_NUMBERED.match, lines) if match]
    in_order = [int(match[1]) for match in numbered] == list(range(1, k + 1))
    found = _read_key(text)
    if found is None and not in_order:
        found = _read_list(text)
    if found is None:
        if numbered and not in_order:
            return Rejected(f"not {k} lines numbered in order", reparable=True)
        found = [match[2] for match in numbered] or _read_table(lines) or _read_bullets(lines)
    if not found:
        return Rejected("refused") if is_refusal(text) else Rejected("not a numbered list", reparable=True)
    if len(found) != k:
        return Rejected(f"not {k} concepts but {len(found)}", reparable=True)
    concepts = [clean_concept(each) for each in found]
    if not all(concepts) or len({concept_signature(concept) for concept in concepts}) != k:
        return Rejected("empty or repeated concepts", reparable=True)
    return concepts


def _read_key(text: str) -> list[str] | None:
    """The strings of the key `concepts` in JSON."""
    for found in find_objects(text, "concepts"):
        return _strings(next(value for key, value in found.items() if key.lower() == "concepts"))
    return None


def _read_list(text: str) -> list[str] | None:
    """The strings of the last list in JSON or Python."""
    for match in reversed(list(_LIST.finditer(text))):
        value = read_value(match[1])
        if value is None:
            try:
                value = ast.literal_eval(match[1])
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
        strings = _strings(value)
        if strings:
            return strings
    return None


def _strings(value: Any) -> list[str] | None:
    if not isinstance(value, list):
        return None
    texts = [next(iter(each.values()), None) if isinstance(each, dict) else each for each in value]
    strings = [each for each in texts if isinstance(each, str)]
    return strings if len(strings) == len(texts) else None


def _read_table(lines: list[str]) -> list[str]:
    """The cell of each row that names its concept: the first, or the second of rows that are numbered."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.strip().startswith("|")
    ]
    if len(rows) < 3 or set("".join(rows[1])) - set("-: "):
        return []
    return [row[1] if len(row) > 1 and row[0].rstrip(".").isdigit() else row[0] for row in rows[2:]]


def _read_bullets(lines: list[str]) -> list[str]:
    bullets = [match[1] for match in map(_BULLET.match, lines) if match]
    return bullets or [line for line in lines if _TITLED.match(line)]


def clean_concept(text: str) -> str:
    """A concept as it is shown: its name alone, without emphasis, quotes or a final full stop; may be empty."""
    text = unicodedata.normalize("NFKC", re.sub(r"<br\s*/?>", " ", text)).strip()
    text = _name_alone(_TITLED.sub("", text))
    text = re.sub(r"\*\*|__|`", "", text)
    text = re.sub(r"^([*_])(.+)\1$", r"\2", text.strip())
    text = re.sub(r"\s+", " ", text).strip().strip("\"'“”").rstrip(".;,:").strip()
    return "" if re.fullmatch(r"\W*|\[.*\]|<.*>", text) else text


def _name_alone(text: str) -> str:
    bold = _BOLD.match(text)
    if bold and (not bold[3] or bold[2].endswith(":") or re.match(r"[:.,(–—-]", bold[3])):
        return bold[2]
    explained = _EXPLAINED.match(text)
    if explained is None or "$" in explained[1]:
        return text
    name, mark, why = explained.groups()
    least = 3 if mark.strip() == "-" else 2
    says_why = len(why.split()) >= least or not why.isascii()
    return name if says_why and len(name.split()) <= MOST_WORDS else text
