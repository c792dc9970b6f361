r"""Text as a sequence of hashed words, blind to what an editor changes without changing the question.

`content_words` forgets case, white space, punctuation and LaTeX spacing (`\,`, `\left`, `{}`, `$`, `\dfrac`): what
contamination is matched on. `symbol_words` keeps every sign as a word of its own (`x+y` is not `x-y`): what
near-duplicates are measured on. Words become 64-bit numbers, and n-grams are hashed whole columns at a time.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import numpy as np
import xxhash

_LATEX_SPACING = re.compile(
    r"\\(?:left|right|bigg?[lrm]?|displaystyle|textstyle|limits|nolimits|quad|qquad|hspace|vspace"
    r"|thinspace|medspace|thickspace|enspace|negthinspace|hfill|smallskip|medskip|bigskip|noindent|newline)(?![a-z])\*?"
    r"|\\[,;:!> \\/]"
)
_LATEX_STYLE = re.compile(r"\\(?:d|t|c)?(frac|binom)(?![a-z])")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox|emph)\*?(?![a-z])")
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_MATH_LETTERS = re.compile(r"(?<![\\a-z])[a-z]{2,}")
_PLAIN_WORD = re.compile(r"(?<![\\a-z])[a-z]{4,}")
_CONTENT = re.compile(r"\d+|[^\W\d_]+")
_SYMBOLS = re.compile(r"\d+|[^\W\d_]+|[^\w\s]|_")

_P = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication is a bijection of 64 bits


def _spread_math(match: re.Match[str]) -> str:
    """In formulas `xy` and `x y` are the same product; commands (`\\sin`) stay whole.

    What stands between two prices (`$5 more than $3`) is no formula: it holds words.
    """
    formula = next(group for group in match.groups() if group is not None)
    if _PLAIN_WORD.search(formula):
        return match.group()
    return " " + _MATH_LETTERS.sub(lambda letters: " ".join(letters.group()), formula) + " "


def _simplify(text: str) -> str:
    """Lower case without LaTeX spacing; commands too are lower-cased, as whole texts in capitals are."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    if "\\" in text:
        text = _LATEX_SPACING.sub(" ", text)
        text = _LATEX_STYLE.sub(r"\\\1", text)
        text = _LATEX_TEXT.sub(" ", text)
    return text


def content_words(text: str) -> list[str]:
    """Lower-case words and numbers; nothing else is left."""
    text = _simplify(text)
    if "$" in text or "\\" in text:
        text = _MATH.sub(_spread_math, text)
    return _CONTENT.findall(text)


def symbol_words(text: str) -> list[str]:
    """Lower-case words, numbers and single signs, without LaTeX spacing."""
    return _SYMBOLS.findall(_simplify(text))


@lru_cache(maxsize=1 << 16)
def hash_word(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))


def hash_words(words: list[str]) -> np.ndarray:
    """(words) uint64."""
    return np.fromiter(map(hash_word, words), dtype=np.uint64, count=len(words))


def mix(values: np.ndarray) -> np.ndarray:
    """Spread every bit of 64-bit numbers over all bits (MurmurHash3's public-domain finaliser)."""
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> np.uint64(33)
    return values


def hash_ngrams(words: np.ndarray, n: int) -> np.ndarray:
    """Hashes of the n-grams of hashed words: (words - n + 1) uint64, empty where there are fewer words."""
    count = len(words) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(n):
        total *= _P
        total += words[offset : offset + count]
    return mix(total + np.uint64(n))
