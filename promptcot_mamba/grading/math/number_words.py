"""Numbers written as English words: `twelve`, `two million`, `three fourths`, `one thousand and five`."""

import re
from fractions import Fraction

from promptcot_mamba.grading.math.tables import pairs, words

SMALL = {
    name: value
    for value, name in enumerate(
        words(
            """
            zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
            seventeen eighteen nineteen
            """
        )
    )
}
_TENS = {
    name: 10 * value
    for value, name in enumerate(words("twenty thirty forty fifty sixty seventy eighty ninety"), start=2)
}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MULTIPLES = {"hundred": 100, "dozen": 12, **SCALES}  # after a numeral: `2 million`, `3 dozen`
_PARTS = {
    name: int(value)
    for name, value in pairs(
        """
        half=2 halves=2 third=3 thirds=3 fourth=4 fourths=4 quarter=4 quarters=4 fifth=5 fifths=5 sixth=6 sixths=6
        seventh=7 sevenths=7 eighth=8 eighths=8 ninth=9 ninths=9 tenth=10 tenths=10
        """
    ).items()
}
NUMBER_WORDS = frozenset([*SMALL, *_TENS, *MULTIPLES, *_PARTS])


def read_number(text: str) -> tuple[Fraction, str] | None:
    """The number that a phrase begins with and the words after it, None where it begins with none.

    `three fourths of a mile` is 3/4 and "of a mile". Digits read one by one (`two one`) are no number.
    """
    found = re.findall(r"[A-Za-z]+|[^\sA-Za-z-]+", text.lower())
    reader = _Reader(found)
    value = reader.number()
    if value is None or reader.peek() in NUMBER_WORDS:
        return None
    return value, " ".join(found[reader.at :])


class _Reader:
    """A place in a list of words; each rule takes the words it covers or none."""

    def __init__(self, found: list[str]):
        self.words = found
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        return self.words[self.at + ahead] if self.at + ahead < len(self.words) else ""

    def number(self) -> Fraction | None:
        start = self.at
        if self.peek() in ("half", "a", "an") and (self.peek() == "half" or self.peek(1) in _PARTS):
            self.at += self.peek() != "half"
            return Fraction(1, self._part())
        whole = self._whole()
        if whole is None:
            self.at = start
            return None
        if self.peek() in _PARTS and whole:
            return Fraction(whole, self._part())
        return whole + self._rest()

    def _part(self) -> int:
        self.at += 1
        return _PARTS[self.words[self.at - 1]]

    def _rest(self) -> Fraction:
        """`... and a half`, `... and three fourths` after a whole number."""
        if self.peek() != "and":
            return Fraction(0)
        upper = 1 if self.peek(1) in ("a", "one") else SMALL.get(self.peek(1), 0)
        if not upper or self.peek(2) not in _PARTS:
            return Fraction(0)
        self.at += 2
        return Fraction(upper, self._part())

    def _whole(self) -> int | None:
        total, largest = None, 10**15
        while True:
            group = self._below_thousand(skip_and=total is not None)
            if group is None:
                return total
            scale = SCALES.get(self.peek(), 1)
            if scale >= largest:
                return None
            self.at += scale > 1
            total, largest = (total or 0) + group * scale, scale
            if scale == 1:
                return total

    def _below_thousand(self, skip_and: bool) -> int | None:
        start = self.at
        if skip_and and self.peek() == "and":
            self.at += 1
        value = self._below_hundred()
        if value is None and self.peek() in ("a", "an") and self.peek(1) in MULTIPLES:
            self.at += 1
            value = 1
        if value is None or (skip_and and self.peek() in _PARTS):
            self.at = start
            return None
        if self.peek() in ("hundred", "dozen"):
            value *= MULTIPLES[self.peek()]
            self.at += 1
            again = self.at
            self.at += self.peek() == "and"
            more = self._below_hundred()
            if more is None or self.peek() in _PARTS:
                self.at = again
                return value
            value += more
        return value

    def _below_hundred(self) -> int | None:
        word = self.peek()
        if word in _TENS:
            self.at += 1
            digit = SMALL.get(self.peek(), 0)
            if not 0 < digit < 10:
                return _TENS[word]
            self.at += 1
            return _TENS[word] + digit
        if word in SMALL:
            self.at += 1
            return SMALL[word]
        return None
