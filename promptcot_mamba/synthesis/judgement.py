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
from promptcot_mamba.synthesis.ratings import (
    ACCEPTABLE,
    BAD,
    CRITERIA,
    FINAL,
    PERFECT,
    VALUES,
    read_json_ratings,
    read_ratings,
    strip_decoration,
    worse,
)
from promptcot_mamba.synthesis.replies import Rejected, is_refusal, read_answer
from promptcot_mamba.synthesis.spending import is_amount

UNPARSEABLE = "unparseable"
NEEDED = ("accuracy", "solvability")  # perfect only if both are
OTHERS = 2  # and at least so many of the others

_LABEL = re.compile(
    r"^(?:[-•]\s*)?(?:(?:the|my)\s+)?(?:(?:(?:final|overall)\s+)?(?:judge?ment|verdict)|(?:final|overall)\s+rating)"
    r"\s*(?:is\b|[:=\-–—])\s*",
    re.I,
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
    line = strip_decoration(find_last_line(split(reply).answer))  # a thinking judge's thought is not its verdict
    word = re.fullmatch(r"\W*(perfect|acceptable|bad)[^\w?]*", _LABEL.sub("", line), re.I)
    return word[1].lower() if word else None


def find_last_line(text: str) -> str:
    """The last line that holds any letter."""
    return next((line for line in reversed(text.splitlines()) if any(char.isalpha() for char in line)), "")


def parse_judgement(reply: str) -> Judgement | Rejected:
    """Ratings and verdict of a reply; with a rating for every criterion, the verdict may be missing.

    A criterion that is named and whose rating cannot be read is nobody's perfect: unless what can be read is less
    already, the judge is asked again.
    """
    text = read_answer(reply)
    if isinstance(text, Rejected):
        return text
    read, stated = read_json_ratings(text)
    ends_in = parse_verdict(text)
    if not read.found:
        in_words = read_ratings(text, find_last_line(text) if ends_in else None)
        in_words.named |= read.named
        read = in_words
    stated, ratings = stated or ends_in, read.found
    if stated is None:
        if FINAL.search(text):
            return Rejected("the final judgement is none of perfect, acceptable, bad", reparable=True)
        if len(ratings) < len(CRITERIA):
            return Rejected("refused") if is_refusal(text) else Rejected("no verdict in the last line", reparable=True)
        return Judgement(ceiling(ratings), None, ratings)
    verdict = worse(stated, ceiling(ratings))
    if verdict == PERFECT and read.unread:
        return Rejected("a criterion's rating is none of perfect, acceptable, bad", reparable=True)
    return Judgement(verdict, stated, ratings)


def ceiling(ratings: Mapping[str, str]) -> str:
    """The best verdict that these ratings allow, whatever the missing ones are; the verdict, if none is missing."""
    if BAD in ratings.values():
        return BAD
    others = [rating for name, rating in ratings.items() if name not in NEEDED]
    missing = len(CRITERIA) - len(NEEDED) - len(others)
    needed = all(ratings.get(name, PERFECT) == PERFECT for name in NEEDED)
    return PERFECT if needed and others.count(PERFECT) + missing >= OTHERS else ACCEPTABLE
