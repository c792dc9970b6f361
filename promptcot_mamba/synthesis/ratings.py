"""Ratings in a judge's reply: beside or below a criterion's name, at the end of its line, in a table's row, in JSON.

A rating is one of three words, said of the criterion and of nothing else: "imperfect", "not perfect", "bad?" and
"acceptable/bad" are none. A criterion that is named and not so rated is `unread`, which is not the same as not named.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from promptcot_mamba.synthesis.json_replies import find_objects

PERFECT, ACCEPTABLE, BAD = "perfect", "acceptable", "bad"
VERDICTS = (PERFECT, ACCEPTABLE, BAD)
VALUES = {PERFECT: 1.0, ACCEPTABLE: 0.5, BAD: 0.0}
# Criterion -> how it is named in replies; their order is that of the numbers in our prompt.
CRITERIA = {
    "format": "format(?:ting)?",
    "accuracy": r"factual[ _]?(?:accuracy|correctness)|accuracy|correctness|factuality",
    "difficulty": r"difficulty[ _]?(?:alignment|level)|difficulty|level[ _]?alignment",
    "coverage": r"concepts?[ _]?coverage|coverage",
    "solvability": "solvability|solvable",
}

_DECORATION = re.compile(r"[*_`#>\"'“”‘’\[\](){}<>|~]+")
_EMPHASIS = re.compile(r"[*_`\"'“”‘’]+")
_STRUCK = re.compile(r"~~[^~\n]*~~")  # "~~perfect~~ bad"
FINAL = re.compile(r"\b(?:final|overall)[ _]?(?:judge?ment|verdict|rating)\b", re.I)
_VERDICT_KEY = r"(?:(?:final|overall) ?)?(?:judge?ment|verdict)|(?:final|overall) ?rating"
# One of the three words: not asked ("bad?"), not the first of a choice ("perfect / acceptable / bad"), and not what a
# problem speaks of ("perfect squares").
_WORD = (
    r"\b(perfect|acceptable|bad)\b(?![ \t]*\?"
    r"|[ \t,;/→=-]*(?:\b(?:or|and|to)[ \t]+)?(?:perfect|acceptable|bad)\b"
    r"|[ \t-](?:square|cube|power|number|matching|tree|graph|group|field|code|hash|shuffle|gas|fluid)s?\b"
    r"|[ \t-](?:information|play|strategy)\b)"
)
_IT_IS = rf"\b(?:it|this|(?:the|its)[ \t]+(?:{'|'.join(CRITERIA.values())}))[ \t]+is\b"
_RATING = re.compile(rf"\A(?:\W|\d|\b(?:is|as|rated|rating)\b|{_IT_IS})*{_WORD}", re.I)
# "Rating: bad" somewhere in what is said of a criterion; "can't be rated bad", less its apostrophe, gives no word.
_SAID = re.compile(
    r"(?:\b(?:not|never|cannot)|n t)\s+(?:be\s+)?rated\b"
    r"|\b(?:rat(?:ed|ing)|score|grade|assessment|judge?ment|verdict)\b"
    rf"(?:[^\w.,;?!]|\d\.?|\b(?:is|as)\b)*{_WORD}",
    re.I,
)
# "it is wrong. Bad", "- bad", "(bad)": the last word of a line, set apart from what stands before it.
_ENDING = re.compile(rf"(?:[.;:!?→⇒(\[{{✓✔✅❌✗✘]|=>?|\s[-–—]+>?|[–—])\s*{_WORD}[\s.!)\]}}]*\Z", re.I)
_ALONE = re.compile(rf"\W*{_WORD}\W*", re.I)
_CHOICE = re.compile(r"\b(?:perfect|acceptable|bad)\W*\Z", re.I)
_SUMMING_UP = re.compile(r"\W*(?:overall|summary|conclusion|final|in (?:summary|conclusion|total|short))\b", re.I)
_CRITERION = re.compile(
    r"^[^\w\n]*(?:(?:criterion[ \t]*)?\d[^\w\n]*)?(?:"
    + "|".join(rf"(?P<{name}>{words})" for name, words in CRITERIA.items())
    + r")\b",
    re.I | re.M,
)
_NUMBER = re.compile(r"^[^\w\n]*(?:criterion[ \t]*)?(?P<number>\d{1,2})(?=[^\w\n])", re.I | re.M)

# The same in JSON: a criterion as a key, numbered or with what it holds ("solvability_rating"), or named by a value.
_KEYS = {
    name: re.compile(rf"(?:criterion )?(?:\d+\W*)?(?:{words})(?: ?(?:rating|score|judge?ment|verdict))?", re.I)
    for name, words in CRITERIA.items()
}
_NAMING = re.compile("criterion|name|title|category|aspect|dimension|metric", re.I)
_HOLDING = re.compile("rating|score|grade|judge?ment|verdict|value|assessment|evaluation|result", re.I)


@dataclass
class Ratings:
    """found: criterion -> word, of one rated twice the worse; named: every criterion that the reply names."""

    found: dict[str, str] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)

    @property
    def unread(self) -> set[str]:
        """Named, and nowhere rated by one of the three words."""
        return self.named - self.found.keys()

    def add(self, name: str, word: str | None) -> None:
        self.named.add(name)
        if word is not None:
            self.found[name] = worse(self.found.get(name), word)


def worse(one: str | None, word: str) -> str:
    """The worse of two ratings, the second where the first is none."""
    return min(one or word, word, key=VALUES.__getitem__)


def strip_decoration(line: str) -> str:
    """A line without markdown, quotes and brackets."""
    return _DECORATION.sub(" ", _STRUCK.sub(" ", line)).strip()


def read_ratings(text: str, last: str | None = None) -> Ratings:
    """What a reply in words says of each criterion: the section from its name to the next one or the final judgement.

    `last`: the line that is the reply's verdict and no criterion's. Where no criterion is named, five numbered
    sections are the five of our prompt.
    """
    raw = text.splitlines()
    rows = [strip_decoration(line if _is_row(line) else line.replace("|", "/")) for line in raw]
    own = len(raw) - 1 - raw[::-1].index(last) if last in raw else len(raw)
    clean = "\n".join(rows)
    heads = [(head, str(head.lastgroup)) for head in _CRITERION.finditer(clean)]
    if not heads:
        places = list(_NUMBER.finditer(clean))
        if [int(place["number"]) for place in places] == list(range(1, len(CRITERIA) + 1)):
            heads = list(zip(places, CRITERIA, strict=True))
    starts = [0, *accumulate(len(row) + 1 for row in rows)]  # of each row in `clean`, and one behind
    ratings = Ratings()
    for (head, name), end in zip(heads, [*(head.start() for head, _ in heads[1:]), len(clean)], strict=False):
        first, stop = bisect_right(starts, head.start()) - 1, bisect_left(starts, end)
        said = FINAL.split(clean[head.end() : end], maxsplit=1)[0]
        ratings.add(name, _rate_section(said, raw[first : min(stop, own)]))
    is_prose = heads and "number" in heads[0][0].groupdict() and not ratings.found
    return Ratings() if is_prose else ratings


def _is_row(line: str) -> bool:
    return line.lstrip().startswith("|")


def _rate_section(said: str, lines: Sequence[str]) -> str | None:
    """A section's rating: in words behind the criterion's name, less decoration; in its lines, as they were written,
    the verdict's line not among them."""
    if lines and lines[0].count("|") > 1:
        cells = [match[1].lower() for cell in lines[0].split("|") if (match := _ALONE.fullmatch(cell))]
        if cells:
            return cells[0] if len(set(cells)) == 1 else None
    if rating := _RATING.match(said):
        return rating[1].lower()
    inside = said.splitlines()[: len(lines)]
    if rating := next((each for each in _SAID.finditer("\n".join(inside)) if each[1]), None):
        return rating[1].lower()
    return _rate_endings(bool(inside and re.search(r"\w", inside[0])), lines)


def _rate_endings(begins_at_once: bool, lines: Sequence[str]) -> str | None:
    """The worst of what a section's first line, its first paragraph where that is a heading, and lone words say."""
    found, in_first = None, True
    for number, line in enumerate(lines):
        if _SUMMING_UP.match(line) or FINAL.search(line):
            break
        line = _EMPHASIS.sub(" ", _STRUCK.sub(" ", line)).strip()
        in_first &= number <= (0 if begins_at_once else 1) or bool(line)
        match = _ALONE.fullmatch(line) if number else None
        if match is None and (number == 0 or (in_first and not begins_at_once)):
            match = _ENDING.search(line)
            if match and match[0][0] not in ".!?" and _CHOICE.search(line[: match.start()]):
                match = None
        found = worse(found, match[1].lower()) if match else found
    return found


def read_json_ratings(text: str) -> tuple[Ratings, str | None]:
    """Ratings and verdict of a reply in JSON, wherever in it they stand; of two verdicts the worse.

    JSON that a judge quotes may have names and a difficulty, too: of what has a verdict or solvability, and what has
    any of the keys, that counts which rates more.
    """
    keys = "|".join([*(pattern.pattern for pattern in _KEYS.values()), _NAMING.pattern, _VERDICT_KEY])
    read = [_read_objects(find_objects(text, each)) for each in (f"solvability|criterion|{_VERDICT_KEY}", keys)]
    ratings, _ = max(read, key=lambda each: (len(each[0].found), len(each[0].named)))
    return ratings, next((stated for _, stated in read if stated), None)


def _read_objects(objects: list[dict[str, Any]]) -> tuple[Ratings, str | None]:
    ratings, stated = Ratings(), None
    of_criteria: set[int] = set()  # objects that say something of one criterion: a verdict in them is its rating
    for values in objects:
        named = [value for key, value in values.items() if _NAMING.fullmatch(key) and isinstance(value, str)]
        if (name := next(filter(None, map(find_criterion, named)), None)) is not None:
            ratings.add(name, _rate_value(values))
            continue
        if id(values) in of_criteria or "criterion" in map(str.lower, values):
            continue
        for key, value in values.items():
            if (name := find_criterion(key)) is not None:
                ratings.add(name, _rate_value(value))
                of_criteria.add(id(value))
            elif re.fullmatch(_VERDICT_KEY, key.strip().replace("_", " "), re.I):
                said = {word for word in _strings(value) if word.strip().lower() in VERDICTS}
                for word in said:
                    stated = worse(stated, word.strip().lower())
    return ratings, stated


def find_criterion(key: str) -> str | None:
    """The criterion that a key or a name of JSON means."""
    key = key.strip().replace("_", " ")
    return next((name for name, pattern in _KEYS.items() if pattern.fullmatch(key)), None)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (own for key, own in value.items() if isinstance(own, str) and _HOLDING.fullmatch(key))


def _rate_value(value: Any) -> str | None:
    """The rating of a value, a text that begins or ends with it or an object with such texts; of several the worse."""
    found = None
    for text in _strings(value):
        lines = text.replace("|", "/").splitlines()
        word = _rate_section(strip_decoration("\n".join(lines)), lines)
        found = worse(found, word) if word else found
    if found is None and isinstance(value, dict):
        for own in value.values():
            match = _ALONE.fullmatch(own) if isinstance(own, str) else None
            found = worse(found, match[1].lower()) if match else found
    return found
