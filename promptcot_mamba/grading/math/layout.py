"""How several answers are laid out: lines of a display, parts `(a)` and `(b)`, "and permutations"."""

import re
from itertools import permutations

from promptcot_mamba.grading.math.tables import TEXT

PERMUTED = re.compile(
    rf"^(.*\))\s*,?\s*(?:{TEXT}\{{\s*|(?<=\s))(?:\(?\s*(?:and|or|with|plus|together with|up to)\s+)?"
    r"(?:all |any |its |their |the |other )*(cyclic )?permutations?(?: thereof| of (?:it|them|these))?"
    r"\s*\)?\s*\.?\s*\}?\s*$",
    re.IGNORECASE,
)
# "(2,2,2) and all permutations of (1,2,3)", "(a,b,c) is a permutation of (1,2,3)"
PERMUTED_BEFORE = re.compile(
    rf"^(?:\(\s*[a-z](?:\s*,\s*[a-z])+\s*\)\s*(?:{TEXT}\{{\s*)?(?:is|are|=)\s+(?:a |any )?|(.*?),?\s*)"
    rf"(?:{TEXT}\{{\s*)?(?:and\s+)?(?:all |any |the )*(cyclic )?permutations? of\s*(?:\}}\s*)?(\(.*\))\s*\.?\s*$",
    re.IGNORECASE,
)
_FLAT = re.compile(r"\(([^()]*)\)")


def permute(match: re.Match[str]) -> str:
    """`(1, 2, 3) \\text{ and permutations}` in full, each point in its place; as it stands where no point does."""
    label, sign, points = match[1].rpartition("=")
    return label + sign + _permuted(points, match) if any("," in flat for flat in _FLAT.findall(points)) else match[0]


def permute_behind(match: re.Match[str]) -> str:
    """The same of the points behind the words."""
    return ", ".join(filter(None, (match[1], _permuted(match[3], match))))


def _permuted(points: str, match: re.Match[str]) -> str:
    def spread(found: re.Match[str]) -> str:
        parts = [part.strip() for part in found[1].split(",")]
        turns = [parts[place:] + parts[:place] for place in range(len(parts))]
        orders = turns if match[2] else list(permutations(parts)) if len(parts) <= 4 else [parts]
        return ", ".join(dict.fromkeys("(" + ", ".join(order) + ")" for order in orders))

    return _FLAT.sub(spread, points)


def join_lines(text: str) -> str:
    """Lines of a display as a list; one that begins with a relation goes on with the line before it."""
    lines = [line.strip() for line in text.split("\\cr")]
    return re.sub(r",\s*(?==|\\approx|\\Rightarrow)", " ", ", ".join(line.rstrip(" ,") for line in lines if line))


_PART = re.compile(
    rf"(?:^|(?<=[,;\s}}]))\s*(?:{TEXT}\{{\s*(?:and\s*)?|and\s+)?(?:part\s*)?\(?(a|b|c|d|e|i|ii|iii|iv|v)\)\s*[:.]?\s*\}}?\s*",
    re.IGNORECASE,
)
_WHOLE_TEXT = re.compile(rf"\s*{TEXT}\{{(\s*\(?(?:a|i)\)[^{{}}]*)\}}\s*")
_PART_NAMES = (["a", "b", "c", "d", "e"], ["i", "ii", "iii", "iv", "v"])


def drop_parts(text: str) -> str:
    """`(a) 778, (b) 624` -> `778, 624`, where the parts are named in order and each has an answer."""
    if whole := _WHOLE_TEXT.fullmatch(text):
        text = whole[1]
    opening = _PART.match(text)
    if opening is None or opening[1] not in "aiAI":
        return text
    found = list(_PART.finditer(text))
    named = [part[1].lower() for part in found]
    answers = [re.sub(r"\\q?quad\s*$", "", piece).strip(" ,;.") for piece in _PART.split(text)[::2]]
    in_order = len(found) > 1 and any(named == known[: len(named)] for known in _PART_NAMES)
    return ", ".join(answers[1:]) if in_order and all(answers[1:]) and not answers[0] else text
