r"""Text as a sequence of hashed words, blind to what an editor changes without changing the question.

`symbol_words` keeps every sign as a word of its own (`x+y` is not `x-y`): what near-duplicates are measured on.
`gist_words` and `gist_signs` are what contamination is matched on: look-alike letters folded, numbers written out read
as digits, LaTeX and plain formulas alike, variables nameless. Words become 64-bit numbers, and n-grams are hashed whole
columns at a time.
"""

import html
import json
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
_SYMBOLS = re.compile(r"\d+|[^\W\d_]+|[^\w\s]|_")

# Letters that look like Latin ones (from Unicode's confusables), by the letter they are taken for.
_LOOK_ALIKES = {
    "a": "\u0430\u0251\u03b1", "b": "\u042c\u044c\u0432\u03b2", "c": "\u0441\u03f2", "d": "\u0501",
    "e": "\u0435\u0454\u04bd\u03b5", "g": "\u0261", "h": "\u04bb\u043d", "i": "\u0456\u0131\u03b9", "j": "\u0458",
    "k": "\u043a\u03ba", "l": "\u04cf", "m": "\u043c\u03bc", "n": "\u03b7\u0578", "o": "\u043e\u03bf\u0585\u03c3",
    "p": "\u0440\u03c1", "q": "\u051b", "s": "\u0455", "t": "\u0442\u03c4", "u": "\u03c5\u057d", "v": "\u03bd\u0475",
    "w": "\u0461\u051d\u03c9", "x": "\u0445\u03c7", "y": "\u0443\u03b3\u04af", "z": "\u03b6",
}  # fmt: skip
_FOLD = {ord(other): latin for latin, others in _LOOK_ALIKES.items() for other in others}
_FOLD |= {ord(upper): latin.upper() for other, latin in _FOLD.items() if len(upper := chr(other).upper()) == 1}
_FOLD |= dict.fromkeys(map(ord, "\u2264\u2265\u2260\u00d7\u00b7\u00f7\u221a\u221e\u03c0\u00b0"), " ")  # as SILENT
# Digits of other scripts (Arabic, Devanagari, ...); those of full width and of mathematical alphabets NFKD takes off.
_FOLD |= {code: str(unicodedata.digit(chr(code))) for code in range(0x660, 0x10000) if chr(code).isdecimal()}
_FOLD |= dict.fromkeys(map(ord, "\u2212\u2013\u2014"), "-")
_FOLD |= {0x2220: " angle ", 0x25B3: " triangle ", 0x2211: " sum ", 0x2225: " parallel ", 0x22A5: " perp "}
_FOLD |= dict(zip(map(ord, "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ"), "abcdefghijklmnoprstuvwyz", strict=True))
# What is read over: accents taken off their letters, joiners, marks of direction, soft hyphens.
_UNSEEN = re.compile(
    "[\u0300-\u036f\u1ab0-\u1aff\u20d0-\u20ff\ufe00-\ufe0f\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)

_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|\\,|\\!)(?=\d{3}(?!\d))")
# Names of points, where maths stands around them: a word in capitals may be an emphasis.
_POINTS = re.compile(
    r"(?:(?<=[$({=+])|(?<=[$({=+] )|(?<=\bto )|(?<=\b(?:of|on|at) )|(?<=\band )|(?<=(?:from|line|side) )|(?<=angle )"
    r"|(?<=median )|(?<=segment )|(?<=through ))[A-Z]{2,5}(?![A-Za-z])|(?<![A-Za-z\\])[A-Z]{2,5}(?= ?[=$)}+])"
)
_CAPITALS = re.compile(r"\b[A-Z]{2,5}\b")
_UPPER, _LOWER = "AEIOSTNR", "aeiostnr"  # enough to see which case a text is in
CASE_CHARACTERS = 2000
_VOWELLESS = re.compile(r"(?<![a-z\\])[b-df-hj-np-tv-xz]{2,5}(?![a-z])", re.IGNORECASE)
# Of HTML; attributes are quoted, since `a <b and c> d` is maths.
_TAG = re.compile(r"</?[a-z][a-z0-9]*(?:\s+[a-z][-:\w]*\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*/?>", re.IGNORECASE)
_DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-z*]+\}(?:\{[lcr|]*\})?")
# Marks that a quotation, a table or a listing puts around its lines; Python's prompt is none.
_LINE_MARK = re.compile(r"^[ \t]*(?!>>>)(?:>(?!>>)[ \t]?)+|^[ \t]*\|(?:[ \t]*\d+[ \t]*\|)?|\|[ \t]*$", re.MULTILINE)
_CARRIERS = (">", "|")
_FIRST_LINE = re.compile(r"^[ \t]*1(?:[.:)|]?[ \t]|[.:)|]?$)", re.MULTILINE)
_LINE_NUMBER = re.compile(r"[ \t]*(\d+)(?:[.:)|]?[ \t]+|[.:)|]?$)")
LISTED_SHARE = 0.6  # of a text's lines that are numbered on from 1, from where on the numbers are a listing's
_JSON_STRING = re.compile(r'"(?:[^"\\\n]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){60,}"')
_JSON_ESCAPE = re.compile(r'\\[\\"]|\\n(?![a-z])')
# Formulas read out: what of it the formula does not say in signs that are kept goes, the rest becomes those signs.
_READ_OUT = tuple(
    (key, re.compile(rf"\b(?:{phrase})\b"), sign)  # `key`: in every text that holds the phrase
    for key, phrase, sign in (
        ("or equal to", "(?:is |are )?(?:less|greater) than or equal to", " "),
        ("not equal to", "(?:is |are )?not equal to", " "),
        ("less than", "(?:is |are )?less than", " < "), ("greater than", "(?:is |are )?greater than", " > "),
        ("so on up to", "and so on up to", " "), ("to the power", "(?:raised )?to the power(?: of)?", " "),
        ("square root of", "(?:the )?square root of", " "), ("cube root of", "(?:the )?cube root of", " 3 "),
        ("the fraction", "the fraction", " "), ("the quantity", "the quantity", " "), ("squared", "squared", " 2 "),
        ("cubed", "cubed", " 3 "), (" sub ", "sub(?= [a-z0-9]\\b)", " "),
        ("absolute value", "the absolute value of", " | "),
        ("sine", "sine(?: of)?", " sin "), ("cosine", "cosine(?: of)?", " cos "), ("tangent of", "tangent of", " tan "),
        (" base", "log(?:arithm)?,? (?:to the )?base", " log "),
    )
)  # fmt: skip
_GIST = re.compile(r"\\[a-z]+|\d+|[a-z]+|[,;\n-]")
_GIST_SIGNS = re.compile(r"\\[a-z]+|\d+|[a-z]+|[<>!]=|[<>=+|-]|[,;\n]")
# Commands of layout, and what a formula says in words as well as in signs: neither is evidence.
SILENT = frozenset(
    """
    over times plus minus equals equal degrees degree deg circ prime leq geq le ge leqslant geqslant ne
    neq lt gt cdot cdots ldots dots vdots infinity infty sqrt frac dfrac tfrac cfrac pi text textbf textit textrm
    textsc mathrm mathbb mathbf mathcal mathit operatorname mbox emph boxed left right big bigg quad qquad displaystyle
    limits begin end pmatrix bmatrix matrix array align cases hline ensuremath mid setminus cup cap subset subseteq
    langle rangle lfloor rfloor lceil rceil in to alpha beta gamma theta lambda mu sigma phi omega delta epsilon
    varepsilon the of overline underline widehat widetilde overrightarrow overleftrightarrow mathfrak mathscr vec
    measuredangle
    """.split()  # noqa: SIM905 (a text of words is read as one)
)
_UNITS = dict(
    zip(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
        range(20), strict=True,
    )
)  # fmt: skip
_TENS = dict(
    zip(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), range(20, 100, 10), strict=True)
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_SPOKEN = {"plus": "+", "equals": "=", "equal": "="}
_UNSAID = frozenset(",;\n-")  # only where numbers written out begin and end do they count
NUMBER_WORDS = _UNITS | _TENS

_P = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication is a bijection of 64 bits


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


def fold_quickly(text: str) -> str:
    """`fold_letters` of a long text, with every short word in capitals taken for points."""
    return _CAPITALS.sub(" ", _plain_letters(text)).casefold()


def _plain_letters(text: str) -> str:
    """Look-alike letters and typographic signs as their plain ones, accents off."""
    return text if text.isascii() else _UNSEEN.sub("", unicodedata.normalize("NFKD", text)).translate(_FOLD)


def fold_letters(text: str) -> str:
    """Lower case, letters plain, and points apart.

    `ABC` is three points whose names say nothing. In a text whose capitals tell nothing, words without vowels are.
    """
    text = _plain_letters(text)
    capitals, small = (sum(map(text[:CASE_CHARACTERS].count, letters)) for letters in (_UPPER, _LOWER))
    return (_POINTS if 0 < 2 * capitals < small else _VOWELLESS).sub(_part, text).casefold()


def _part(found: re.Match[str]) -> str:
    return f" {' '.join(found.group())} "


def _without_line_marks(text: str) -> str:
    """A text without what a quotation, a table or a listing puts before and after its lines."""
    if ">" in text or "|" in text:
        text = _LINE_MARK.sub(" ", text)
    if _FIRST_LINE.search(text) is None:
        return text
    lines = text.split("\n")
    read, expected = [], 1
    for line in lines:
        found = _LINE_NUMBER.match(line)
        if found is not None and int(found[1]) == expected:
            line, expected = line[found.end() :], expected + 1
        read.append(line)
    return "\n".join(read) if expected > 3 and expected > LISTED_SHARE * len(lines) else text


def _unescape(found: re.Match[str]) -> str:
    """A string of JSON as the text it stands for; what only looks like one stays."""
    return f" {json.loads(found[0])} " if _JSON_ESCAPE.search(found[0]) else found[0]


def _in_signs(text: str) -> str:
    """A text with the formulas that it reads out in signs, as far as signs are kept."""
    for key, phrase, sign in _READ_OUT:
        if key in text:
            text = phrase.sub(sign, text)
    return text


def without_tags(text: str, instead: str = "\n") -> str:
    return _TAG.sub(instead, text) if "<" in text else text


def take_out(text: str) -> str:
    """A text without what carries it: JSON's escapes, the marks of a quotation, a table or a listing."""
    if '"' in text and "\\" in text:
        text = _JSON_STRING.sub(_unescape, text)
    return _without_line_marks(text) if "\n" in text or text.lstrip()[:1] in _CARRIERS else text


def _fold(text: str) -> str:
    """`fold_letters`, numbers without separators, formulas in signs; carriers, HTML, drawings, environments off."""
    text = take_out(text)
    if "&" in text:
        text = html.unescape(text)
    text = fold_letters(text)
    text = without_tags(text, " ")
    if "[asy]" in text:
        text = _DRAWING.sub(" ", text)
    if "," in text or "\\" in text:
        text = _THOUSANDS.sub("", text)
    if "\\begin" in text:
        text = _ENVIRONMENT.sub(" ", text)
    return _in_signs(text)


def _read_numbers(words: list[str]) -> list[str]:
    """The words with every number written out (`three hundred and forty-two`) as digits."""
    if NUMBER_WORDS.keys().isdisjoint(words):
        return [word for word in words if word not in _UNSAID]
    read: list[str] = []
    at = 0
    while at < len(words):
        if words[at] not in NUMBER_WORDS:
            if words[at] not in _UNSAID:
                read.append(words[at])
            at += 1
            continue
        value, at = _read_number(words, at)
        read.append(str(value))
    return read


def _read_number(words: list[str], at: int) -> tuple[int, int]:
    """`(value, position after it)` of the number that begins at a number word."""
    total, current, last = 0, 0, ""
    while at < len(words):
        word = words[at]
        if word in _UNITS and last != "unit" and not (last == "tens" and not 1 <= _UNITS[word] <= 9):
            current, last = current + _UNITS[word], "unit"
        elif word in _TENS and last not in ("unit", "tens"):
            current, last = current + _TENS[word], "tens"
        elif word == "hundred" and 0 < current < 100:
            current, last = current * 100, "scale"
        elif word in _SCALES and current:
            total, current, last = total + current * _SCALES[word], 0, "scale"
        elif not _joins(word, last, words[at + 1 : at + 2]):
            break
        at += 1
    return total + current, at


def _joins(word: str, last: str, following: list[str]) -> bool:
    """Whether a word stands inside a number: `hundred and five`, `forty - two`."""
    if word == "and":
        return last == "scale" and not NUMBER_WORDS.keys().isdisjoint(following)
    return word == "-" and last == "tens" and 1 <= _UNITS.get((following or [""])[0], 0) <= 9


def gist_words(text: str) -> list[str]:
    """Words and numbers that tell a question: without variables, layout and the words that formulas are read with."""
    found = (word.lstrip("\\") for word in _GIST.findall(_fold(text)))
    return _read_numbers([word for word in found if word not in SILENT and (len(word) > 1 or not word.isalpha())])


def gist_signs(text: str) -> list[str]:
    """`gist_words` with variables (all of one name) and the signs of formulas."""
    found = (word.lstrip("\\") for word in _GIST_SIGNS.findall(_fold(text)))
    found = (_SPOKEN.get(word, word) for word in found if len(word) != 2 or word[1] != "=")  # as \\leq is silent
    named = ("v" if len(word) == 1 and word.isalpha() else word for word in found if word not in SILENT)
    return _read_numbers(list(named))


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
