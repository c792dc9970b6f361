"""What a publisher is: the forms its rows come in, which files hold them, and their licence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row


@dataclass(frozen=True)
class Form:
    """One shape of rows.

    `repo` is its home on the hub (None: only as a local file); `parts` are groups of file patterns whose rows follow
    one another. `names` are file names under which the same rows are passed around. `columns` tell the form by its
    keys. `convert(raw, position)` returns the problem row, None for rows outside the benchmark; `position` counts the
    form's raw rows from 0.
    """

    repo: str | None
    parts: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    columns: tuple[str, ...]
    expected: int  # problems
    convert: Callable[[Row, int], Row | None]

    def check(self, raw: Row, where: str) -> None:
        """Raise InputError, naming what was found, if a row lacks a column of this form."""
        missing = [column for column in self.columns if column not in raw]
        if missing:
            raise InputError(f"{where}: missing column {', '.join(missing)}; found {', '.join(raw)}")


@dataclass(frozen=True)
class Publisher:
    """A benchmark's origin. The first form is the one fetched from the hub.

    `make_tests(raw)` returns the content of a problem's test file, for benchmarks that keep tests in a folder.
    """

    licence: str
    origin: str
    forms: tuple[Form, ...]
    make_tests: Callable[[Row], Any] | None = None
    tests_folder: str | None = None


def text(raw: Row, column: str) -> str:
    """A column's text; raises InputError if it is empty or no text."""
    value = raw.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"column {column!r} must be a non-empty text, found {value!r:.80}")
    return value
