"""Blocks that speak of a program instead of being one: its first line quoted, a stub, a head whose body is left out."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Sequence

from promptcot_mamba.grading.code.fences import Block, parse_python

LEFT_OUT = re.compile(r"(?:,\s*)?\.\.\.(?=\s*\))")  # parameters: `def f(self, ...):`


def last_whole(programs: Sequence[Block]) -> Block | None:
    """The last block that does not only quote another: whose functions have a body, and which is no run of an earlier
    one's lines that is no Python by itself. Where all are such, the last: it may be the answer."""
    lines = [_stripped(block.body) for block in programs]
    for place in reversed(range(len(programs))):
        body = programs[place].body
        is_torn = parse_python(body) is None and any(
            lines[place] in whole and lines[place] != whole for whole in lines[:place]
        )
        if not is_torn and not is_outline(body):
            return programs[place]
    return next(reversed(programs), None)


def _stripped(body: str) -> str:
    """Its lines wherever they are indented to, each between two newlines."""
    return "\n".join(["", *(line.strip() for line in body.split("\n") if line.strip()), ""])


def is_outline(body: str) -> bool:
    """Whether a text defines functions or classes and nothing that any of them does."""
    text = textwrap.dedent(LEFT_OUT.sub("", body)).rstrip()
    last = text.rpartition("\n")[2]
    indent = last[: len(last) - len(last.lstrip())]
    tree = parse_python(text) or parse_python(f"{text}\n{indent} pass")
    if tree is None or not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body):
        return False
    return not any(_does_something(node) for node in tree.body)


def _does_something(node: ast.stmt) -> bool:
    match node:
        case ast.FunctionDef(body=body) | ast.AsyncFunctionDef(body=body) | ast.ClassDef(body=body):
            return any(_does_something(inner) for inner in body)
        case ast.Raise(exc=ast.Name(id="NotImplementedError") | ast.Call(func=ast.Name(id="NotImplementedError"))):
            return False
        case ast.Pass() | ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):  # a docstring, `...`
            return False
    return True
