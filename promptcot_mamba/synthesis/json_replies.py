r"""JSON in replies: in a fence or among words, with commas at the end, raw line ends, and LaTeX whose `\` is single."""

import json
import re
from collections.abc import Iterator
from typing import Any

_OPENING = re.compile(r"[\[{]")
_COMMA = re.compile(r",(\s*[\]}])")
_BAD_ESCAPE = re.compile(r'\\\\|\\(?!["\\/bfnrtu])')
# `\frac`, `\times`, `\right`, `\binom`: JSON would read a control character, which no problem holds.
_LATEX = re.compile(r"\\\\|\\(?=[bfrt][a-z]{2}|n(?:abla|eq?|eg|i|ot|u|mid|leq|geq|otin|olimits)\b|u(?![0-9a-fA-F]{4}))")
MOST_STARTS = 50


def find_objects(text: str, keys: str) -> list[dict[str, Any]]:
    """Every object with a key of this pattern, in any case, `_` for spaces, in the first JSON value that has one."""
    name = re.compile(keys, re.IGNORECASE)
    for start in [match.start() for match in _OPENING.finditer(text)][:MOST_STARTS]:
        value = read_value(text[start:])
        found = [each for each in _objects(value) if any(name.fullmatch(str(key).replace("_", " ")) for key in each)]
        if found:
            return found
    return []


def read_value(text: str) -> Any:
    """The JSON value that a text begins with, mended where models break it; None where there is none."""
    decoder = json.JSONDecoder(strict=False)
    for mend in (_double_latex, _double_bad):
        try:
            return decoder.raw_decode(_COMMA.sub(r"\1", mend(text)))[0]
        except (json.JSONDecodeError, RecursionError):
            continue
    return None


def _double_latex(text: str) -> str:
    return _LATEX.sub(lambda match: match[0] if len(match[0]) == 2 else r"\\", _double_bad(text))


def _double_bad(text: str) -> str:
    return _BAD_ESCAPE.sub(lambda match: match[0] if len(match[0]) == 2 else r"\\", text)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _objects(each)
