r"""LaTeX as MathML that is safe to put into a page: converted by latex2mathml, then rebuilt from a list of known tags.

A model's LaTeX may hold anything; only MathML elements and harmless attributes survive, and what does not convert is
shown as its source.
"""

import re
from functools import lru_cache
from html import escape
from xml.etree import ElementTree

from latex2mathml import exceptions
from latex2mathml.converter import convert

MAX_CHARS = 2000  # longer formulas are shown as source: conversion takes time, pages grow
NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
TAGS = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "msup", "msub", "msubsup", "mfrac", "msqrt", "mroot", "mover",
    "munder", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom", "menclose", "mmultiscripts",
}  # fmt: skip
ATTRIBUTES = {"display", "mathvariant", "stretchy", "fence", "separator", "form", "accent", "width", "columnalign"}
# What the converter raises for LaTeX it cannot read: its own kinds, and what its parser trips over.
CONVERSION_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    *(IndexError, KeyError, ValueError, TypeError, AttributeError, StopIteration, RecursionError),
    ElementTree.ParseError,
)
_PLAIN = re.compile(r"[\w\s.%#+-]{0,40}")
_FORMULA = re.compile(
    r"\\\[(?P<a>.+?)\\\]|\$\$(?P<b>.+?)\$\$|\\\((?P<c>.+?)\\\)|(?<![\\$])\$(?P<d>[^$\n]+?)(?<!\\)\$", re.DOTALL
)


def render_text(text: str) -> str:
    """Text with its formulas as MathML and everything else escaped: markup that is safe in a page."""
    parts, last = [], 0
    for match in _FORMULA.finditer(text):
        source = next(group for group in match.groups() if group is not None)
        block = match["a"] is not None or match["b"] is not None
        formula = render_formula(source, block)
        parts += [escape(text[last : match.start()]), formula if formula is not None else escape(match[0])]
        last = match.end()
    return "".join([*parts, escape(text[last:])])


@lru_cache(maxsize=4096)
def render_formula(source: str, block: bool = False) -> str | None:
    """One formula as MathML; None where it cannot be converted."""
    if len(source) > MAX_CHARS or source.count("{") > 200:
        return None
    try:
        return _rebuild(ElementTree.fromstring(convert(source, display="block" if block else "inline")))
    except CONVERSION_ERRORS:
        return None


def _rebuild(element: ElementTree.Element) -> str:
    tag = element.tag.removeprefix(NAMESPACE)
    inner = escape(element.text or "") + "".join(_rebuild(child) + escape(child.tail or "") for child in element)
    if tag not in TAGS:
        return inner
    kept = {name: value for name, value in element.attrib.items() if name in ATTRIBUTES and _PLAIN.fullmatch(value)}
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in kept.items())
    return f"<{tag}{attributes}>{inner}</{tag}>"
