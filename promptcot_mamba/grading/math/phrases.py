"""English around and inside answers: numbers in words, "all real numbers", "for all x", "The answer is", "(C) 12".

Phrases are read after `spelling.spell`. What a phrase may say is a closed list: words that turn an answer into another
one ("not", "minus", "less than") or hedge it are never dropped, they leave it unreadable.
"""

import re
from dataclasses import dataclass, field

from promptcot_mamba.grading.math.families import Domain, read_domain
from promptcot_mamba.grading.math.number_words import MULTIPLES, NUMBER_WORDS, read_number
from promptcot_mamba.grading.math.tables import CHANGING, GUESSES, TEXT, names

_QUALIFIERS = "for|since|because|where|as|with|when|whenever|given|provided|assuming"
_BARE_WORDS = sorted(
    NUMBER_WORDS
    | names(
        """
        all any every each for since because where when whenever given provided assuming real reals numbers number
        integer integers positive negative nonnegative nonzero natural rational complex no solution solutions exist
        exists does infinitely many infinite option choice choose option set the of is are total only exactly
        undefined
        """
    ),
    key=len,
    reverse=True,
)
_BARE_RUN = re.compile(
    rf"(?<![\\A-Za-z{{])\b(?:{'|'.join(_BARE_WORDS)})(?:(?:\s+|-)(?:{'|'.join(_BARE_WORDS)}|and|a|an)\b)*\b"
)
_GROUP = re.compile(rf"{TEXT}\{{([^{{}}]*)\}}")
# "a total of 5" is 5; "a fifth of 5", "the square of 5" are not.
_TOTALS = "|".join(
    rf"(?<=\b{name} of)"
    for name in sorted(names("total sum maximum minimum max min value answer probability area volume length cost"))
)
_VERBS = "|".join(
    rf"(?<=\b{name})"
    for name in sorted(
        names("makes make has have gets get earns pays costs needs takes spends saves sells receives gives")
    )
)
_OPENING_WORDS = re.compile(
    rf"^\s*(?:{TEXT}\{{)?\s*([A-Za-z][A-Za-z' ,-]*?)(?:\s*:|(?<=\bis)|(?<=\bare)|(?<=\bequals)|{_TOTALS}|{_VERBS})"
    r"\s*(?=[\s}:\\\d(-])(\}?)"
)
_OPENING_ADVERB = re.compile(
    rf"^\s*{TEXT}\{{\s*(?:so|thus|hence|therefore|finally|we get|we have|we find|that is|only|exactly|ans(?:wer)?[.:]?)"
    r"\s*,?\s*\}",
    re.IGNORECASE,
)


def read_phrases(text: str) -> str:
    """The text with its phrases turned into mathematics, as far as they are known ones."""
    if not any(sign.isalpha() for sign in text):
        return text
    if not text.isascii():
        text = _CONNECTING.sub(", ", _FOREIGN_OPENING.sub("", text))
        text = _FOREIGN.sub(r"\\text{pieces}", _FOREIGN_GROUP.sub(r"\\text{pieces}", text))
    for pattern, meaning in _BEFORE_WRAPPING:
        text = pattern.sub(meaning, text)
    text = _wrap_bare_words(text)
    for pattern, meaning in _BEHIND_WRAPPING:
        text = pattern.sub(meaning, text)
    text = _drop_opening(text)
    text = _GROUP.sub(_read_group, text) if "\\" in text else text
    return _LEFT_OUT.sub(_in_braces, text) if "\\setminus " in text else text


def _in_braces(match: re.Match[str]) -> str:
    """`\\setminus 1, 2` means both numbers."""
    return "\\{" + ", ".join(re.findall(r"-?\d+", match[1])) + "\\}"


# `\\text{all integers } n \\ge 3`, where the letter by custom stands for them
_EVERY = re.compile(
    rf"^\s*{TEXT}\{{\s*(?:for )?(?:all|every|any)\s*(?:(?:positive |natural )?(?:integers?|numbers?)|(?:values? of))?"
    r"\s*\}\s*(?=[ijklmnpqrsNMK]\s*(?:[<>=]|\\g|\\l|\\eq|\\in(?![A-Za-z])))"
)
_EVERY_REAL = re.compile(  # `\\text{all real } x \\ge 1`
    rf"^\s*{TEXT}\{{\s*(?:for )?(?:all|every|any)\s*(?:real\s*)?(?:numbers?|values? of)?\s*\}}\s*"
    r"(?=[a-z]\s*(?:[<>]|\\g|\\l|\\neq?(?![A-Za-z])))"
)
_EVERY_KIND = re.compile(  # `\\text{all odd integers } n \\ge 3`: what thins the letter out stands behind its bound
    rf"^\s*{TEXT}\{{\s*(?:for )?(?:all|every|any)\s+(odd|even|prime)"
    r"(?:\s+(?:positive |natural )?(?:integers?|numbers?))?\s*\}\s*"
    r"([ijklmnpqrsNMK]\s*(?:[<>]|\\ge?q?|\\le?q?)(?![A-Za-z])\s*-?\d+)\s*$"
)
_THINGS = (
    "positive|negative|real|integers?|primes?|natural|rational|numbers?|values?(?: of)?|(?:ordered )?pairs?|triples?"
    "|functions?|polynomials?|sequences?|sets?"
)
_NO_SUCH = re.compile(  # `\\text{No such } x \\text{ exists}`
    rf"^\s*{TEXT}\{{\s*(?P<there>there (?:is|are|exists?) )?no (?:such )?(?:(?:{_THINGS})\s*)*\}}\s*"
    r"(?:[A-Za-z]|\(\s*\\?[A-Za-z]+(?:\s*,\s*\\?[A-Za-z]+)+\s*\))\s*"
    rf"(?:{TEXT}\{{\s*(?:can )?exists?\.?\s*\}}|(?(there)|(?!)))\s*\.?\s*$",
    re.IGNORECASE,
)
_EACH = re.compile(
    r"(?<=[a-z])\s+(?:an?|each|every)\s+(?=(?:second|minute|hour|day|night|week|month|year|person)\b)"
)  # `18 dollars a day`
_MINUS = re.compile(rf"{TEXT}\{{\s*(?:negative|minus)\s*\}}\s*(?=[\d({{]|\\(?:[dt]?frac|sqrt|pi)\b)", re.IGNORECASE)
_APPOSED = re.compile(  # `113, \\text{ a prime}`: says more of the answer before it
    rf"(?<=[\w)}}\]])\s*,\s*{TEXT}\{{\s*(?:which is )?(?:an?|the) (?!.*\b(?:{'|'.join(sorted(CHANGING | GUESSES))})\b)"
    r"[A-Za-z -]+\.?\s*\}\s*$"
)
_ALL_LETTER = re.compile(
    rf"({TEXT}\{{[^{{}}]*\b(?:real|integer|rational)s?(?: numbers?)?)\s*\}}\s*[a-z]\s*$"
)  # `all real x`
_ALL_LETTER_BUT = re.compile(  # `\\text{all integers } n \\text{ except } 2`
    rf"({TEXT}\{{[^{{}}]*\b(?:real|integer|number)s?)\s*\}}\s*[a-z]\s*{TEXT}\{{\s*(?=except\b)"
)
_IS = re.compile(
    rf"(?<=[A-Za-z)\]])\s*{TEXT}\{{\s*(?:is|equals|is equal to)\s*\}}\s*(?=[-\d({{]|\\(?:frac|sqrt|pi|boxed)\b)"
)
# What each means, in the order in which they are looked for: before bare words are put into macros, and behind it.
_BEFORE_WRAPPING = (
    (_NO_SUCH, r"\\emptyset "),
    (_EVERY_KIND, r"\2 \\text{ \1}"),
    (_EVERY_REAL, ""),
    (_EVERY, ""),
    (_EACH, " per "),
    (_MINUS, "-"),
    (_APPOSED, ""),
)
_BEHIND_WRAPPING = ((_ALL_LETTER_BUT, r"\1 "), (_ALL_LETTER, r"\1}"), (_IS, " = "))
_FOREIGN_GROUP = re.compile(rf"{TEXT}\{{\s*[\u3040-\u9fff\uac00-\ud7af]+\s*\}}")
_FOREIGN_OPENING = re.compile(
    rf"^\s*(?:{TEXT}\{{\s*)?(?![^:]*[不非无没])[\u3040-\u9fff]+\s*:\s*\}}?"
)  # `答案：`, the answer
_FOREIGN = re.compile(r"[\u3040-\u9fff\uac00-\ud7af]+")
_CONNECTING = re.compile(r"或者|或|和|与|及")  # or, and


def _wrap_bare_words(text: str) -> str:
    """Known words outside text macros, put into one: `2 million` -> `2 \\text{million}`."""
    groups = [match.span() for match in _GROUP.finditer(text)] if "\\" in text else []

    def wrap(match: re.Match[str]) -> str:
        inside = any(start <= match.start() < end for start, end in groups)
        return match.group() if inside else f"\\text{{{match.group()}}}"

    return _BARE_RUN.sub(wrap, text)


def _drop_opening(text: str) -> str:
    """`\\text{The minimum value is } 7` -> `7`; words of CHANGING keep the opening."""
    if adverb := _OPENING_ADVERB.match(text):
        text = text[adverb.end() :]
    match = _OPENING_WORDS.match(text)
    if match is None:
        return text
    words = match.group(1).lower().replace(",", " ").split()
    if (
        (CHANGING | GUESSES) & set(words)
        or words[0] == "one"
        or (words[-1] == "of" and (words.count("of") > 1 or NUMBER_WORDS & set(words)))
    ):
        return text
    if len(match.group(1)) < 2 or match.group(1).lower() in ("option", "choice") or not text[match.end() :].strip(" }"):
        return text
    opened = text[: match.start(1)].strip() != ""
    return text[match.end() :] if not opened or match.group(2) else f"\\text{{{text[match.end() :]}"


_SETS = {
    "real": r"\mathbb{R}",
    "positive real": r"(0,\infty)",
    "negative real": r"(-\infty,0)",
    "nonnegative real": r"[0,\infty)",
    "nonzero real": r"\mathbb{R}\setminus\{0\}",
    "integer": r"\mathbb{Z}",
    "positive integer": r"\mathbb{Z}_{+}",
    "natural": r"\mathbb{N}",
    "rational": r"\mathbb{Q}",
    "complex": r"\mathbb{C}",
}
_ALL = re.compile(
    r"\s*(?:the\s+)?(?:set\s+of\s+)?(?:(all|any|every)\s+)?(?:the\s+)?((?:positive |negative |nonnegative |nonzero )?"
    r"(?:real|integer|natural|rational|complex))s?(\s+numbers?)?(?:\s+[a-z])?\s*(except(?:\s+for)?)?\s*",
    re.IGNORECASE,
)
_NO_SOLUTION = re.compile(
    r"\s*(?:the\s+)?(?:empty|null)\s+set\s*|"
    r"\s*(?:there (?:is|are)\s+)?no\s+(?:such\s+)?(?:(?:real|integer|positive|rational|valid|possible|other)\s+)*"
    r"(?:solutions?|roots?|values?|numbers?|functions?|polynomials?|integers?|primes?|pairs?|triples?|tuples?|sequences?"
    r"|sets?|[a-z])(?:\s+(?:can\s+)?exists?)?\s*\.?\s*|\s*none\s*(?:exists?)?\.?\s*",
    re.IGNORECASE,
)
_INFINITE = re.compile(
    r"\s*(?:infinity|infinitely many|infinite)(?:\s+(?:solutions?|many|ways|values))?\s*", re.IGNORECASE
)
_MISSING = re.compile(r"\s*(?:DNE|does not exist|do not exist)\s*", re.IGNORECASE)
_SIGNED = re.compile(r"\s*(?:negative|minus)\s+")
_RESTATED = re.compile(r"\s*\(\s*([A-Za-z -]+)\s*\)\s*")
_MEASURED = re.compile(r"\s*([-+]?\d[\d.,]*)\s+([A-Za-z][A-Za-z -]*)")
_RESTATED_COUNT = re.compile(r"\s*\(\s*(-?\d[\d,.]*)\s+([A-Za-z -]+)\)\s*")  # `5 \\text{ (5 ways)}`
_RESTATED_BEHIND = re.compile(r"\s*(-?\d[\d,.]*)\s*(\([A-Za-z -]+\))\s*")  # `\\text{12 (twelve)}`
_CHOSEN = re.compile(r"\s*(?:option|choice|answer)\s*:?\s*\(?([A-J])\)?\s*", re.IGNORECASE)


_ALL_BUT = re.compile(_ALL.pattern + r"(-?\d+(?:\s*(?:,|\band\b|\bor\b)+\s*-?\d+)*)\s*", re.IGNORECASE)
_LEFT_OUT = re.compile(
    r"(?<=\\setminus )\s*(?:[a-z]\s*=\s*)?(-?\d+(?:\s*(?:,|(?:\\text\s*\{\s*)?\band\b\s*\}?)+\s*-?\d+)*)\s*$"
)


def _read_group(match: re.Match[str]) -> str:
    """One text macro: a number in words, a set in words, a choice; else as it stands."""
    content = match.group(1).replace("non-", "non")
    found = _ALL.fullmatch(content)
    if found and (found[1] or found[3] or re.search(r"(?:real|integer|natural)s\b", content, re.IGNORECASE)):
        return _SETS[" ".join(found[2].lower().split())] + (r"\setminus " if found[4] else "")
    if (found := _ALL_BUT.fullmatch(content)) and found[4]:
        return _SETS[" ".join(found[2].lower().split())] + rf"\setminus {found[5]}"
    if _NO_SOLUTION.fullmatch(content):
        return r"\emptyset "
    if _INFINITE.fullmatch(content):
        return r"\infty "
    if _MISSING.fullmatch(content):
        return r"\text{does not exist}"
    if found := _CHOSEN.fullmatch(content):
        return f"\\text{{({found[1].upper()})}}"
    if found := _MEASURED.fullmatch(content):
        return found[1] + _read_numeral(f"\\text{{ {found[2]}}}", found[2])
    if found := _RESTATED_COUNT.fullmatch(content):
        return f", {found[1]}\\text{{ {found[2]}}}"
    if found := _RESTATED_BEHIND.fullmatch(content):
        return found[1] + _read_numeral(f"\\text{{{found[2]}}}", found[2])
    return _read_numeral(match.group(), content)


def _read_numeral(whole: str, content: str) -> str:
    restated = _RESTATED.fullmatch(content)
    first, _, rest = content.strip().partition(" ")
    if first.lower() in MULTIPLES and whole and content.strip():
        return f"\\cdot {MULTIPLES[first.lower()]}" + (f"\\text{{ {rest}}}" if rest else "")
    signed = _SIGNED.match(content)
    found = read_number(restated[1] if restated else content[signed.end() if signed else 0 :])
    if found is None or (CHANGING | {"and"}) & set(found[1].split()):
        return whole
    value, unit = found
    value = -value if signed else value
    number = str(value) if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    if not restated and unit and not re.fullmatch(r"[a-z ]+", unit):
        return whole
    return (", " if restated else "") + number + (f"\\text{{ {unit}}}" if unit else "")


@dataclass(frozen=True)
class Qualified:
    """An answer apart from what it says of its letters: `n^2`, and `for all integers n`."""

    answer: str
    domain: Domain = field(default_factory=Domain)  # what is said of its letter


_TAIL = re.compile(
    rf"(?<![\s,;:])[\s,;:]*(?:\\q?quad)?\s*[,(\[]?\s*(?:{TEXT}\{{[\s,;(]*(?:{_QUALIFIERS})\b|\\forall\b|(?<![\\A-Za-z])(?:{_QUALIFIERS})\s)"
)
_TAIL_CHANGES = re.compile(
    r"\b(?:or|otherwise|else|odd|even|not|but|if|wrong|incorrect|false|and then"
    r"|squared|doubled|tripled|halved|large|small|most|only"
    rf"|{'|'.join(sorted(GUESSES))})\b|;|\\(?:to|rightarrow)(?![A-Za-z])",
    re.I,
)
_TAIL_COMPUTES = re.compile(r"[\^+*/]|\\(?:[dt]?frac|sqrt|pm|mp)")
# `f(x) = x \\text{ for all } x, \\text{ or } f(x) = 2 - x \\text{ for all } x`: what each says of its letter
_EACH_FOR_ALL = re.compile(
    rf"[\s,]*{TEXT}\{{\s*for (?:all|every|any)(?:\s+real)?(?:\s+numbers?)?\s*[a-z]?\s*\}}(?:\s*[a-z](?![A-Za-z(]))?"
    rf"(?:\s*\\in\s*\\mathbb\s*\{{?\s*R\s*\}}?)?(?=\s*(?:$|[,;]|\\text\s*\{{\s*,?\s*(?:or|and)\b))"
)
_TAIL_NUMBER = re.compile(
    r"(?<![<>=\d.])(?<!\\ge)(?<!\\le)(?<!\\ne)(?<!\\geq)(?<!\\leq)(?<!\\neq)(?<!lant)(?<!-)\s\d|[A-Za-z)}]\d|\d\s\d"
)
_TAIL_ORDERS = re.compile(r"[<>]|\\(?:ge|le|ne)")
_TAIL_FIXES = re.compile(r"(?<![<>!])=")
_TAIL_EQUATION = re.compile(r"[A-Za-z]\s*=")
_REASON = re.compile(r"\b(?:since|because|as)\b")
_BECAUSE = re.compile(r"\b(?:since|because)\b")  # reasons may name numbers


def split_qualifier(text: str) -> Qualified:
    """`n^2 \\text{ for all } n` -> `n^2`. A tail that distinguishes cases or fixes a letter is part of the answer."""
    if len(_TAIL.findall(text)) > 1:
        text = _EACH_FOR_ALL.sub("", text)
    match = _TAIL.search(text)
    if match is None or match.start() == 0:
        return Qualified(text)
    tail = text[match.start() :]
    reason = _REASON.search(match.group()) is not None
    because = _BECAUSE.search(match.group()) is not None
    computed = not because and (_TAIL_NUMBER.search(tail) or _TAIL_COMPUTES.search(tail))
    if _TAIL_CHANGES.search(tail) or computed or len(_TAIL.findall(tail)) > 1:
        return Qualified(text)
    equation = because or (reason and _TAIL_EQUATION.search(tail))
    if _TAIL_FIXES.search(tail) and not (equation and not _TAIL_ORDERS.search(tail)):
        return Qualified(text)
    if "(" in match.group() and not tail.rstrip(" }").endswith(")"):
        return Qualified(text)
    return Qualified(text[: match.start()].rstrip(" ,;:"), read_domain(tail))


_HEDGED = re.compile(
    r"\b(?:or|and|maybe|if|not|wrong|incorrect)\b|^\s*(?:\\text\{\s*)?(?:[,;=+*/]|-(?![\d\\])|\\(?:pm|mp)|(?:is|isn't|but|unless)\b)",
    re.IGNORECASE,
)
OTHER_CHOICE = re.compile(r"\([A-J]\)|\b(?:or|and)\s+[A-J]\b|(?<![A-Za-z\\])[A-J][.)]\s")
_CHOICE_PREFIX = re.compile(
    rf"^\s*(?:{TEXT}\{{\s*\(?([A-J])(?:\)[.:]?|[.:])\s*\}}?|\(([A-J])\)(?!\s*[-+=*^(/_,)\\cdot])|([A-J])\)\s)\s*"
)

# `B. 16`, `\\text{B}. 16`, and `B\\quad 16`, where only a number shows that the letter is no factor
_LETTER_FIRST = re.compile(
    rf"\s*(?:{TEXT}\{{\s*([A-J])\s*\}}|([A-J]))\s*"
    r"(?:\.(?:\s|~|\$|\\[,;:! ]|\\q?quad(?![A-Za-z]))+(?!\s*[A-J](?![A-Za-z]))"
    r"|(?:\\q?quad(?![A-Za-z])\s*)+(?=-?\d|\\(?:[dt]?frac|sqrt|pi)(?![A-Za-z])))"
)


def set_choice_apart(text: str) -> str:
    """`B. 16`, `B\\quad 16` as `B) 16`; before the text is cleaned, which makes a plain space of `\\quad`."""
    match = _LETTER_FIRST.match(text)
    return f"{match[1] or match[2]}) {text[match.end() :]}" if match else text


def split_choice(text: str) -> tuple[str | None, str]:
    """`\\textbf{(C) } 12` -> ("C", "12"): the letter and what it stands for; (None, text) where no letter leads."""
    match = _CHOICE_PREFIX.match(text)
    if match is None:
        return None, text
    rest = text[match.end() :]
    if rest.count("}") > rest.count("{"):
        rest = rest[: rest.rindex("}")] + rest[rest.rindex("}") + 1 :]
    if OTHER_CHOICE.search(rest) or _HEDGED.search(rest):
        return None, text
    return match.group(1) or match.group(2) or match.group(3), rest.strip()
