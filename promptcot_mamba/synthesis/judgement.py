"""What a judge's reply says: a rating a criterion, a verdict of a closed set, and whether they contradict each other.

The verdict follows from the ratings by the rule the judge was told: bad if any is bad; perfect if accuracy and
solvability are perfect and at least two others too; acceptable otherwise. Where a judge says better than its ratings
allow, the ratings count; where it says worse, its word does. Both are contradictions, and counted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from promptcot_mamba.chat_format import split
from promptcot_mamba.errors import InputError
from promptcot_mamba.synthesis.json_replies import find_objects
from promptcot_mamba.synthesis.replies import Rejected, is_refusal, read_answer
from promptcot_mamba.synthesis.spending import is_amount

PERFECT, ACCEPTABLE, BAD, UNPARSEABLE = "perfect", "acceptable", "bad", "unparseable"
VERDICTS = (PERFECT, ACCEPTABLE, BAD)
VALUES = {PERFECT: 1.0, ACCEPTABLE: 0.5, BAD: 0.0}
# Criterion -> how it is named in replies.
CRITERIA = {
    "format": "format",
    "accuracy": r"factual[ _]?accuracy|accuracy",
    "difficulty": r"difficulty[ _]?alignment|difficulty",
    "coverage": r"concept[ _]?coverage|coverage",
    "solvability": "solvability",
}
NEEDED = ("accuracy", "solvability")  # perfect only if both are
OTHERS = 2  # and at least so many of the others

_DECORATION = re.compile(r"[*_`#>\"'“”‘’\[\](){}<>|~]+")
_LABEL = re.compile(
    r"^(?:[-•]\s*)?(?:(?:the|my)\s+)?(?:(?:(?:final|overall)\s+)?(?:judge?ment|verdict)|(?:final|overall)\s+rating)"
    r"\s*(?:is\b|[:=\-–—])\s*",
    re.I,
)
_FINAL = re.compile(r"\b(?:final|overall)[ _]?(?:judge?ment|verdict|rating)\b", re.I)
_VERDICT_KEY = r"(?:(?:final|overall) ?)?(?:judge?ment|verdict)|(?:final|overall) ?rating"
# One of the three words: not asked ("bad?"), and not the first of a choice ("perfect / acceptable / bad").
_WORD = r"\b(perfect|acceptable|bad)\b(?![ \t]*\?|[ \t]*(?:[,/]|or\b|and\b)[ \t]*(?:perfect|acceptable|bad)\b)"
_RATING = re.compile(rf"\A(?:\W|\d|\b(?:is|as|rated|rating)\b)*{_WORD}", re.I)
# "Rating: bad" somewhere in what is said of a criterion; "can't be rated bad", less its apostrophe, gives no word.
_SAID = re.compile(
    r"(?:\b(?:not|never|cannot)|n t)\s+(?:be\s+)?rated\b"
    rf"|\b(?:rat(?:ed|ing)|score|grade|assessment)\b(?:[^\w.,;?!]|\d\.?|\b(?:is|as)\b)*{_WORD}",
    re.I,
)
_CRITERION = re.compile(
    r"^[^\w\n]*(?:(?:criterion[ \t]*)?\d[^\w\n]*)?(?:"
    + "|".join(rf"(?P<{name}>{words})" for name, words in CRITERIA.items())
    + r")\b",
    re.I | re.M,
)


@dataclass(frozen=True)
class Judgement:
    """verdict: what counts; stated: what the judge said, if anything; ratings by criterion, those that were found."""

    verdict: str
    stated: str | None
    ratings: dict[str, str] = field(default_factory=dict)

    @property
    def contradicts(self) -> bool:
        """Whether verdict and ratings cannot both be meant."""
        if self.stated is None:
            return False
        return self.stated != self.verdict or (
            len(self.ratings) == len(CRITERIA) and self.stated != ceiling(self.ratings)
        )

    def score(self, weights: Mapping[str, float]) -> float:
        """0 to 1: the weighted mean of the ratings, never above the verdict's own value; that alone without ratings."""
        total = sum(weights.get(name, 1.0) for name in self.ratings)
        mean = sum(weights.get(name, 1.0) * VALUES[rating] for name, rating in self.ratings.items())
        return min(mean / total if total else 1.0, VALUES[self.verdict])


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises InputError for a criterion that there is not, or a weight that is none."""
    if not isinstance(weights, dict):
        raise InputError(f"weights {weights!r}: expected a mapping of criteria to weights")
    for name, weight in weights.items():
        if name not in CRITERIA:
            raise InputError(f"weights: unknown criterion {name!r}; known: {', '.join(CRITERIA)}")
        if not is_amount(weight):
            raise InputError(f"weights: {name}: {weight!r} is no weight; expected a number of 0 or more")
    if weights and not any(weights.get(name, 1.0) for name in CRITERIA):
        raise InputError("weights: all are 0; some criterion has to count")


def parse_verdict(reply: str) -> str | None:
    """The verdict a reply ends in, or None.

    The last line that holds any letter must be one word of VERDICTS, alone or after a label such as `Final
    Judgement:`, in any case and markdown. "imperfect", "not perfect", two verdicts or a sentence are None.
    """
    answer = split(reply).answer  # a thinking judge's thought is not its verdict
    lines = [line for line in answer.splitlines() if any(char.isalpha() for char in line)]
    if not lines:
        return None
    line = _DECORATION.sub(" ", lines[-1]).strip()
    word = re.fullmatch(r"\W*(perfect|acceptable|bad)[^\w?]*", _LABEL.sub("", line), re.I)
    return word[1].lower() if word else None


def parse_judgement(reply: str) -> Judgement | Rejected:
    """Ratings and verdict of a reply; with a rating for every criterion, the verdict may be missing."""
    text = read_answer(reply)
    if isinstance(text, Rejected):
        return text
    ratings, stated = _read_values(text)
    ratings, stated = ratings or read_ratings(text), stated or parse_verdict(text)
    if stated is None:
        if _FINAL.search(text):
            return Rejected("the final judgement is none of perfect, acceptable, bad", reparable=True)
        if len(ratings) < len(CRITERIA):
            return Rejected("refused") if is_refusal(text) else Rejected("no verdict in the last line", reparable=True)
        return Judgement(ceiling(ratings), None, ratings)
    return Judgement(min(stated, ceiling(ratings), key=VALUES.__getitem__), stated, ratings)


def ceiling(ratings: Mapping[str, str]) -> str:
    """The best verdict that these ratings allow, whatever the missing ones are; the verdict, if none is missing."""
    if BAD in ratings.values():
        return BAD
    others = [rating for name, rating in ratings.items() if name not in NEEDED]
    missing = len(CRITERIA) - len(NEEDED) - len(others)
    needed = all(ratings.get(name, PERFECT) == PERFECT for name in NEEDED)
    return PERFECT if needed and others.count(PERFECT) + missing >= OTHERS else ACCEPTABLE


def read_ratings(text: str) -> dict[str, str]:
    """Criterion -> rating, the first of what stands from its name to the next one or the final judgement.

    Of one rated twice the worse. What is no rating is left out.
    """
    rows = [line if line.lstrip().startswith("|") else line.replace("|", "/") for line in text.splitlines()]
    text = "\n".join(_DECORATION.sub(" ", row).strip() for row in rows)
    found: dict[str, str] = {}
    heads = list(_CRITERION.finditer(text))
    for head, end in zip(heads, [*(head.start() for head in heads[1:]), len(text)], strict=False):
        said = _FINAL.split(text[head.end() : end], maxsplit=1)[0]
        rating = _RATING.match(said) or next((each for each in _SAID.finditer(said) if each[1]), None)
        if rating and head.lastgroup:
            _keep_worse(found, head.lastgroup, rating[1].lower())
    return found


def _keep_worse(found: dict[str, str], name: str, word: str) -> None:
    found[name] = min(found.get(name, word), word, key=VALUES.__getitem__)


def _read_values(text: str) -> tuple[dict[str, str], str | None]:
    """Ratings and verdict of a reply in JSON, wherever in it they stand."""
    ratings: dict[str, str] = {}
    stated = None
    for values in find_objects(text, f"solvability|criterion|{_VERDICT_KEY}"):
        if isinstance(values.get("criterion"), str):  # one of a list of them
            values = {values["criterion"]: values}
        for key, value in values.items():
            said = value.get("rating") if isinstance(value, dict) else value
            word = said.strip().lower() if isinstance(said, str) else None
            name = next((each for each, words in CRITERIA.items() if re.fullmatch(words, key.strip(), re.I)), None)
            if word in VERDICTS and name is not None:
                _keep_worse(ratings, name, word)
            elif word in VERDICTS and re.fullmatch(_VERDICT_KEY, key.strip().replace("_", " "), re.I):
                stated = word
    return ratings, stated
