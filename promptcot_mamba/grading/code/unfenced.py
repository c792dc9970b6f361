"""A function in text without fences, by EvalPlus's rule: the longest run of lines that is Python.

EvalPlus (`evalplus/sanitize.py`) takes that run of the problem's head with the completion below it, and keeps what the
function needs (`needed`).
"""

import ast
import re
import warnings
from itertools import accumulate

from promptcot_mamba.grading.code.fences import parse_python
from promptcot_mamba.grading.code.needed import only_needed

MAX_LINES = 1000  # a longer answer is no function


def first_error(text: str) -> int | None:
    """The line (from 1) at which text stops being Python, None if it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return 1
    return None


def longest_program(lines: list[str]) -> tuple[int, int]:
    """The slice of the run of lines that parses and has most lines that are not blank; the first of equals.

    No run that begins at a line and reaches the parser's error parses, so each beginning needs few tries.
    """
    filled = [0, *accumulate(bool(line.strip()) for line in lines)]  # lines that are not blank, up to each place
    best, best_count = (0, 0), 0
    for start in range(len(lines)):
        if filled[-1] - filled[start] <= best_count:
            break
        end = len(lines) if lines[start].strip() else start
        while filled[end] - filled[start] > best_count:
            wrong = first_error("\n".join(lines[start:end]))
            if wrong is None:
                best, best_count = (start, end), filled[end] - filled[start]
                break
            end = min(end - 1, start + wrong - 1)
    return best


def find_function(text: str, head: str, entry: str) -> str | None:
    """The program in `text` that defines `entry`, by itself or as the rest of the problem's `head`; None if none."""
    lines = text.replace("\r", "").split("\n")[:MAX_LINES]
    start, end = longest_program(lines)
    program = only_needed("\n".join(lines[start:end]), entry)
    if program is not None:
        return program
    above = head.rstrip().split("\n")
    start, end = longest_program([*above, *lines])
    program = "\n".join([*above, *lines][start:end])
    tree = parse_python(program)
    written = [node for node in tree.body if getattr(node, "name", None) == entry] if tree else []
    if written and start + (written[-1].end_lineno or 0) > len(above):  # a parsed node has its lines
        return only_needed(program, entry)
    return None


def define_pattern(entry: str) -> re.Pattern[str]:
    """Where source text defines `entry` at its top level, without parsing it: as a function or by assignment."""
    name = re.escape(entry)
    return re.compile(rf"^(?:async\s+)?def\s+{name}\b|^{name}\s*(?::[^=\n]+)?=", re.MULTILINE)
